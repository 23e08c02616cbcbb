// 16-bit storage types for host code; arithmetic happens in float. Always inlined, so that no copy
// compiled for one instruction set can be linked in for another.
#pragma once
#include <cstdint>
#include <cstring>

#define DDGAN_INLINE inline __attribute__((always_inline))

namespace ddgan {

struct Half { uint16_t bits; };
struct BFloat16 { uint16_t bits; };

DDGAN_INLINE float bits_to_float(uint32_t u) { float f; std::memcpy(&f, &u, 4); return f; }
DDGAN_INLINE uint32_t float_to_bits(float f) { uint32_t u; std::memcpy(&u, &f, 4); return u; }

DDGAN_INLINE float to_float(BFloat16 h) { return bits_to_float(uint32_t(h.bits) << 16); }

DDGAN_INLINE float to_float(Half h) {
  const uint32_t sign = uint32_t(h.bits & 0x8000u) << 16, magnitude = h.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_to_float(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
  // Scaling by 2^112 rebiases the exponent and turns half subnormals into normal floats.
  return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * 0x1p112f));
}

// Round to nearest even.
DDGAN_INLINE BFloat16 to_bfloat16(float f) {
  const uint32_t u = float_to_bits(f);
  if ((u & 0x7fffffffu) > 0x7f800000u) return {uint16_t(u >> 16 | 0x40u)};
  return {uint16_t((u + 0x7fffu + (u >> 16 & 1u)) >> 16)};
}

DDGAN_INLINE Half to_half(float f) {
  const uint32_t u = float_to_bits(f), magnitude = u & 0x7fffffffu;
  const uint16_t sign = uint16_t(u >> 16 & 0x8000u);
  if (magnitude > 0x7f800000u) return {uint16_t(sign | 0x7e00u)};
  if (magnitude >= 0x477ff000u) return {uint16_t(sign | 0x7c00u)};
  if (magnitude < 0x38800000u) {
    // The addition aligns a subnormal's last bit with the float's, so the FPU rounds it.
    const float aligned = bits_to_float(magnitude) + 0.5f;
    return {uint16_t(sign | uint16_t(float_to_bits(aligned) - 0x3f000000u))};
  }
  return {uint16_t(sign | uint16_t((magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13))};
}

}  // namespace ddgan
