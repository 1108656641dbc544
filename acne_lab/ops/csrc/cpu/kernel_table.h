// The kernels for the instruction set that this translation unit is compiled for.
#pragma once

#include "cpu/bias_act_kernel.h"
#include "cpu/epilogue_kernel.h"
#include "cpu/upfirdn2d_kernel.h"
#include "cpu/winograd_kernel.h"

namespace acne_lab::ACNE_ISA {

template <class T>
constexpr Kernels kernels_of = {
    {bias_act<0, T>, bias_act<1, T>, bias_act<2, T>},
    upfirdn2d<T>,
    epilogue<T>,
    filter_scratch_bytes<T>,
    epilogue_backward<T>,
    std::is_same_v<T, float> ? winograd_taps : nullptr,
    std::is_same_v<T, float> ? winograd : nullptr,
};

const Kernels kernels[4] = {kernels_of<double>, kernels_of<float>, kernels_of<BFloat16>, kernels_of<Half>};

}  // namespace acne_lab::ACNE_ISA
