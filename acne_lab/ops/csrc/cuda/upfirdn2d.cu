#include "cuda/upfirdn2d.cuh"

namespace acne_lab::cuda {

void upfirdn2d(const void* x, const float* f, void* y, const Resampling& r, Type type, StreamPointer stream) {
  with_type(type, [&](auto zero) {
    using T = decltype(zero);
    launch_upfirdn2d<Patch<1, 1, 4>, Patch<2, 1, 4>, Patch<1, 2, 4>>(stream, static_cast<const T*>(x), f,
                                                                     static_cast<T*>(y), r, NoTail<sum_t<T>>());
  });
}

}  // namespace acne_lab::cuda
