// How the operators were built, for `python -m ddgan.ops`.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <map>
#include <string>

PYBIND11_MODULE(_build_info, m) {
  m.doc() = "How the compiled operators were built.";
  m.def(
      "info", [] { return std::map<std::string, std::string>{DDGAN_BUILD_INFO}; },
      "Return the compilers, versions and architectures of the build.");
}
