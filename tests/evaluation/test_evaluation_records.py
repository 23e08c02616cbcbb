import json

import pytest

from ddgan.evaluation import read_records, write_record


def test_records_are_found_among_other_files(tmp_path):
    folder = tmp_path / "run" / "deep"
    folder.mkdir(parents=True)
    write_record(folder / "iter_2.pth", "fid", {"fid": 2.5}, {"iteration": 2}, version="3")
    write_record(tmp_path / "run" / "iter_1.pth", "fid", {"fid": float("inf")}, {"seed": 0})
    (folder / "list.json").write_text("[]")
    (folder / "other.json").write_text('{"metric": "fid"}')
    (folder / "lines.json").write_text('{"a": 1}\n{"a": 2}\n')
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "binary.json").write_bytes(b"\xff\xfe\x80")
    (folder / "large.json").write_text(json.dumps("x" * 2**20))
    records = read_records(tmp_path)
    assert [record["values"]["fid"] for record in records] == [2.5, float("inf")]
    assert records[0]["version"] == "3"
    assert records[0]["protocol"]["checkpoint"] == "iter_2.pth"
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        read_records(tmp_path / "nowhere")
