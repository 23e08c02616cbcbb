// Resampling. The x2 four-tap filters march down the image: a thread filters each input row
// horizontally once, keeps the rows it still needs in registers and writes whole packs.
#pragma once
#include "platform.cuh"

namespace ddgan {
namespace cuda {

template <class A>
struct Taps4 { A x[4], y[4]; };

// Threads own (plane, strip of rows, column group); V lanes are columns of NCHW or channels of NHWC.
struct March {
  int64_t planes, strips, groups;  // groups: column groups of one row (times channel packs in NHWC)
  int64_t rows;                    // rows of one strip
  int64_t in_h, in_w, out_h, out_w, inner;
};

struct Place {
  int64_t plane, row, column, channel;
};

template <int V, bool kLast>
__device__ inline Place place(const March& m, int64_t id) {
  Place p;
  int64_t rest, group, strip;
  divide(id, m.groups, rest, group);
  divide(rest, m.strips, p.plane, strip);
  p.row = strip * m.rows;
  if (kLast) {
    int64_t pack;
    divide(group, m.inner / V, p.column, pack);
    p.channel = pack * V;
  } else {
    p.column = group * V;
    p.channel = 0;
  }
  return p;
}

// Column `x` (V columns from it in NCHW) of row `y`, zero outside the image.
template <int V, bool kLast, class T>
__device__ inline void fetch(const March& m, const T* plane, int64_t y, int64_t x, int64_t channel,
                             Acc<T>* out) {
  if (y < 0 || y >= m.in_h || x < 0 || x >= m.in_w) {
#pragma unroll
    for (int i = 0; i < V; ++i) out[i] = Acc<T>(0);
  } else {
    load<V>(plane + (y * m.in_w + x) * (kLast ? m.inner : 1) + channel, out);
  }
}

template <int V, bool kLast, class T>
__device__ inline void up2_row(const March& m, const T* plane, int64_t y, const Place& p,
                               const Taps4<Acc<T>>& w, Acc<T>* even, Acc<T>* odd) {
  using A = Acc<T>;
  if (kLast) {
    A a[V], b[V], c[V];
    fetch<V, true>(m, plane, y, p.column - 1, p.channel, a);
    fetch<V, true>(m, plane, y, p.column, p.channel, b);
    fetch<V, true>(m, plane, y, p.column + 1, p.channel, c);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      even[i] = w.x[0] * a[i] + w.x[2] * b[i];
      odd[i] = w.x[1] * b[i] + w.x[3] * c[i];
    }
  } else {
    A v[V + 2];
    fetch<1, false>(m, plane, y, p.column - 1, 0, v);
    fetch<V, false>(m, plane, y, p.column, 0, v + 1);
    fetch<1, false>(m, plane, y, p.column + V, 0, v + V + 1);
#pragma unroll
    for (int i = 0; i < V; ++i) {
      even[i] = w.x[0] * v[i] + w.x[2] * v[i + 1];
      odd[i] = w.x[1] * v[i + 1] + w.x[3] * v[i + 2];
    }
  }
}

template <int V, bool kLast, class T>
__device__ inline void up2_store(const March& m, T* plane, int64_t y, const Place& p,
                                 const Acc<T>* even, const Acc<T>* odd) {
  if (y >= m.out_h) return;
  T* out = plane + (y * m.out_w + 2 * p.column) * (kLast ? m.inner : 1) + p.channel;
  if (kLast || V == 1) {
    if (2 * p.column < m.out_w) store<V>(out, even);
    if (2 * p.column + 1 < m.out_w) store<V>(out + (kLast ? m.inner : 1), odd);
  } else {
    Acc<T> both[2 * V];
#pragma unroll
    for (int i = 0; i < V; ++i) {
      both[2 * i] = even[i];
      both[2 * i + 1] = odd[i];
    }
    store<V>(out, both);
    store<V>(out + V, both + V);
  }
}

// pad 2 before: out[2m] = w0 x[m-1] + w2 x[m], out[2m+1] = w1 x[m] + w3 x[m+1], both ways.
template <class T, int V, bool kLast>
__global__ void __launch_bounds__(kThreads)
fir_up2(const T* __restrict__ x, T* __restrict__ y, March m, Taps4<Acc<T>> w) {
  using A = Acc<T>;
  const int64_t total = m.planes * m.strips * m.groups;
  for (int64_t id = DDGAN_THREAD_ID; id < total; id += DDGAN_THREAD_COUNT) {
    const Place p = place<V, kLast>(m, id);
    const T* in = x + p.plane * m.in_h * m.in_w * m.inner;
    T* out = y + p.plane * m.out_h * m.out_w * m.inner;
    A e0[V], o0[V], e1[V], o1[V], e2[V], o2[V], e[V], o[V];
    up2_row<V, kLast>(m, in, p.row - 1, p, w, e0, o0);
    up2_row<V, kLast>(m, in, p.row, p, w, e1, o1);
    for (int64_t r = p.row; r < p.row + m.rows && 2 * r < m.out_h; ++r) {
      up2_row<V, kLast>(m, in, r + 1, p, w, e2, o2);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        e[i] = w.y[0] * e0[i] + w.y[2] * e1[i];
        o[i] = w.y[0] * o0[i] + w.y[2] * o1[i];
      }
      up2_store<V, kLast>(m, out, 2 * r, p, e, o);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        e[i] = w.y[1] * e1[i] + w.y[3] * e2[i];
        o[i] = w.y[1] * o1[i] + w.y[3] * o2[i];
        e0[i] = e1[i];
        o0[i] = o1[i];
        e1[i] = e2[i];
        o1[i] = o2[i];
      }
      up2_store<V, kLast>(m, out, 2 * r + 1, p, e, o);
    }
  }
}

template <int V, bool kLast, class T>
__device__ inline void down2_row(const March& m, const T* plane, int64_t y, const Place& p,
                                 const Taps4<Acc<T>>& w, Acc<T>* h) {
  using A = Acc<T>;
  const int64_t x = 2 * p.column;
  if (kLast) {
    A a[V], b[V], c[V], d[V];
    fetch<V, true>(m, plane, y, x - 1, p.channel, a);
    fetch<V, true>(m, plane, y, x, p.channel, b);
    fetch<V, true>(m, plane, y, x + 1, p.channel, c);
    fetch<V, true>(m, plane, y, x + 2, p.channel, d);
#pragma unroll
    for (int i = 0; i < V; ++i)
      h[i] = w.x[0] * a[i] + w.x[1] * b[i] + w.x[2] * c[i] + w.x[3] * d[i];
  } else {
    A v[2 * V + 2];
    fetch<1, false>(m, plane, y, x - 1, 0, v);
    fetch<V, false>(m, plane, y, x, 0, v + 1);
    fetch<V, false>(m, plane, y, x + V, 0, v + V + 1);
    fetch<1, false>(m, plane, y, x + 2 * V, 0, v + 2 * V + 1);
#pragma unroll
    for (int i = 0; i < V; ++i)
      h[i] = w.x[0] * v[2 * i] + w.x[1] * v[2 * i + 1] + w.x[2] * v[2 * i + 2] +
             w.x[3] * v[2 * i + 3];
  }
}

// pad 1 before: out[m] = w0 x[2m-1] + w1 x[2m] + w2 x[2m+1] + w3 x[2m+2], both ways.
template <class T, int V, bool kLast>
__global__ void __launch_bounds__(kThreads)
fir_down2(const T* __restrict__ x, T* __restrict__ y, March m, Taps4<Acc<T>> w) {
  using A = Acc<T>;
  const int64_t total = m.planes * m.strips * m.groups;
  for (int64_t id = DDGAN_THREAD_ID; id < total; id += DDGAN_THREAD_COUNT) {
    const Place p = place<V, kLast>(m, id);
    const T* in = x + p.plane * m.in_h * m.in_w * m.inner;
    T* out = y + p.plane * m.out_h * m.out_w * m.inner;
    A a[V], b[V], c[V], d[V], sum[V];
    down2_row<V, kLast>(m, in, 2 * p.row - 1, p, w, a);
    down2_row<V, kLast>(m, in, 2 * p.row, p, w, b);
    for (int64_t r = p.row; r < p.row + m.rows && r < m.out_h; ++r) {
      down2_row<V, kLast>(m, in, 2 * r + 1, p, w, c);
      down2_row<V, kLast>(m, in, 2 * r + 2, p, w, d);
#pragma unroll
      for (int i = 0; i < V; ++i) {
        sum[i] = w.y[0] * a[i] + w.y[1] * b[i] + w.y[2] * c[i] + w.y[3] * d[i];
        a[i] = c[i];
        b[i] = d[i];
      }
      store<V>(out + (r * m.out_w + p.column) * (kLast ? m.inner : 1) + p.channel, sum);
    }
  }
}

// Any factors, padding and filter: one thread an output element.
template <class T>
__global__ void __launch_bounds__(kThreads) fir_general(const Fir f) {
  using A = Acc<T>;
  const T* x = static_cast<const T*>(f.x);
  T* y = static_cast<T*>(f.y);
  const int64_t row = f.out_w * f.inner, total = f.planes * f.out_h * row;
  const int last = f.taps_x * f.taps_y - 1;
  for (int64_t id = DDGAN_THREAD_ID; id < total; id += DDGAN_THREAD_COUNT) {
    int64_t rest, at, ox, c, plane, oy;
    divide(id, row, rest, at);
    divide(at, f.inner, ox, c);
    divide(rest, f.out_h, plane, oy);
    const int64_t base_y = oy * f.down_y - f.pad_y, base_x = ox * f.down_x - f.pad_x;
    const T* in = x + plane * f.in_h * f.in_w * f.inner + c;
    // The first tap that meets a sample: base + tap is a multiple of the upsampling factor.
    const int first_y = int(((-base_y) % f.up_y + f.up_y) % f.up_y);
    const int first_x = int(((-base_x) % f.up_x + f.up_x) % f.up_x);
    A sum = 0;
    for (int j = first_y; j < f.taps_y; j += f.up_y) {
      const int64_t iy = (base_y + j) / f.up_y;
      if (base_y + j < 0 || iy >= f.in_h) continue;
      A part = 0;
      for (int k = first_x; k < f.taps_x; k += f.up_x) {
        const int64_t ix = (base_x + k) / f.up_x;
        if (base_x + k < 0 || ix >= f.in_w) continue;
        const int tap = j * f.taps_x + k;
        const A w = f.weights_2d ? A(f.weights_2d[f.flip_2d ? last - tap : tap]) : A(f.weights_x[k]);
        part += w * A(widen(in[(iy * f.in_w + ix) * f.inner]));
      }
      sum += part * (f.weights_2d ? A(f.gain_2d) : A(f.weights_y[j]));
    }
    narrow(sum, y[id]);
  }
}

template <class T, int V, bool kLast>
void march(const Fir& f, bool up, void* stream) {
  March m{f.planes, 0, 0, 16, f.in_h, f.in_w, f.out_h, f.out_w, f.inner};
  const int64_t columns = up ? (f.out_w + 1) / 2 : f.out_w, rows = up ? (f.out_h + 1) / 2 : f.out_h;
  m.groups = kLast ? columns * (f.inner / V) : columns / V;
  // Short strips where long ones would leave the device idle.
  if (m.planes * m.groups * rows / 16 < (int64_t(1) << 17)) m.rows = 4;
  m.strips = (rows + m.rows - 1) / m.rows;
  Taps4<Acc<T>> w;
  for (int i = 0; i < 4; ++i) {
    w.x[i] = Acc<T>(f.weights_x[i]);
    w.y[i] = Acc<T>(f.weights_y[i]);
  }
  const T* x = static_cast<const T*>(f.x);
  T* y = static_cast<T*>(f.y);
  const unsigned grid = grid_for(m.planes * m.strips * m.groups);
  if (up) DDGAN_LAUNCH((fir_up2<T, V, kLast>), grid, kThreads, stream, x, y, m, w);
  else DDGAN_LAUNCH((fir_down2<T, V, kLast>), grid, kThreads, stream, x, y, m, w);
}

template <class T>
void launch_fir(const Fir& f, void* stream) {
  const bool separable = f.weights_2d == nullptr && f.taps_x == 4 && f.taps_y == 4;
  const bool up = separable && f.up_x == 2 && f.up_y == 2 && f.down_x == 1 && f.down_y == 1 &&
                  f.pad_x == 2 && f.pad_y == 2;
  const bool down = separable && f.up_x == 1 && f.up_y == 1 && f.down_x == 2 && f.down_y == 2 &&
                    f.pad_x == 1 && f.pad_y == 1;
  constexpr int V = sizeof(T) == 8 ? 1 : kPack<T>;
  const bool address = aligned(f.x) && aligned(f.y);
  if (!up && !down) {
    const unsigned grid = grid_for(f.planes * f.out_h * f.out_w * f.inner);
    DDGAN_LAUNCH((fir_general<T>), grid, kThreads, stream, f);
  } else if (f.inner > 1) {
    if (address && f.inner % V == 0) march<T, V, true>(f, up, stream);
    else march<T, 1, true>(f, up, stream);
  } else {
    const bool whole = up ? f.out_w == 2 * f.in_w && f.in_w % V == 0
                          : f.in_w == 2 * f.out_w && f.out_w % V == 0;
    if (address && whole) march<T, V, false>(f, up, stream);
    else march<T, 1, false>(f, up, stream);
  }
}

}  // namespace cuda
}  // namespace ddgan
