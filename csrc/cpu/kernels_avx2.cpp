#include <cstdlib>

#if defined(__x86_64__)
#include <immintrin.h>

#include "../common/half.h"
#include "../common/norm_math.h"
#include "cpu.h"

#pragma GCC target("avx2,fma,f16c,tune=haswell")
#define DDGAN_ISA avx2
#define DDGAN_VECTOR_BYTES 32
#include "kernels.inl"
#endif
