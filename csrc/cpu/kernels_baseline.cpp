#include <cstdlib>

#if defined(__SSE2__)
#include <emmintrin.h>
#endif

#include "../common/half.h"
#include "../common/norm_math.h"
#include "cpu.h"

#define DDGAN_ISA baseline
#define DDGAN_VECTOR_BYTES 16
#include "kernels.inl"
