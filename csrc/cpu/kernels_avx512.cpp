#include <cstdlib>

#if defined(__x86_64__)
#include <immintrin.h>

#include "../common/half.h"
#include "../common/norm_math.h"
#include "cpu.h"

#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c,prefer-vector-width=512")
#define DDGAN_ISA avx512
#define DDGAN_VECTOR_BYTES 64
#include "kernels.inl"
#endif
