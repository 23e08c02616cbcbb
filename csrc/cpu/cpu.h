// Entry points of the CPU kernels and the table that one instruction set fills.
#pragma once
#include "../common/types.h"

namespace ddgan {

// Each runs a range of independent pieces of work, so that the caller can thread them.
struct CpuKernels {
  void (*fir)(const Fir&, int64_t begin, int64_t end);                    // rows of the output
  void (*bias_act)(const BiasAct&, int64_t begin, int64_t end);           // spans
  void (*bias_act_grad)(const BiasAct&, int64_t slices, int64_t begin, int64_t end);  // slices
  void (*norm)(const AdaNorm&, int pass, int64_t begin, int64_t end);     // (sample, group) tiles
  int64_t (*conv_packed)(const Conv&);                // floats of the transformed weights
  int64_t (*conv_scratch)(const Conv&, ConvPass);     // floats that a thread needs
  int64_t (*conv_items)(const Conv&, ConvPass);
  void (*conv)(const Conv&, ConvPass, float* scratch, int64_t begin, int64_t end);
};

namespace baseline { extern const CpuKernels kernels; }
namespace avx2 { extern const CpuKernels kernels; }
namespace avx512 { extern const CpuKernels kernels; }

// The best table for this processor; DDGAN_CPU=baseline|avx2|avx512 lowers the choice.
const CpuKernels& cpu_kernels();
const char* cpu_capability();

}  // namespace ddgan
