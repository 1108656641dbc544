#include <torch/library.h>

#include "cpu/host.h"

namespace acne_lab {
namespace {

Act act_named(std::string_view name) {
  for (int i = 0; i < int(std::size(kActNames)); i++) {
    if (kActNames[i] == name) return Act(i);
  }
  TORCH_CHECK_VALUE(false, "there is no activation ", std::string(name));
}

// Fills in what the operators have in common and runs one of them over the memory of `x`, which is dense.
at::Tensor run(int order, BiasAct c, const at::Tensor& x, const std::optional<at::Tensor>& b, int64_t dim,
               std::string_view act, double alpha, double gain, double clamp) {
  at::Tensor out = at::empty_like(x);
  const int64_t n = x.numel();
  if (n == 0) return out;
  c.out = out.data_ptr();
  c.x = x.const_data_ptr();
  c.act = act_named(act);
  c.alpha = alpha;
  c.gain = gain;
  c.clamp = rounded(clamp, x.scalar_type());
  c.b = nullptr;
  c.b_is_row = false;
  c.run = n;
  c.channels = 1;

  at::Tensor row;
  if (b) {
    dim = at::maybe_wrap_dim(dim, x.dim());
    TORCH_CHECK_VALUE(b->dim() == 1 && b->size(0) == x.size(dim), "b must have shape [", x.size(dim), "]");
    row = b->to(sum_type(x.scalar_type())).contiguous();
    const int64_t channels = x.size(dim), stride = x.stride(dim);
    if (channels > 1 && stride == 1) {  // channels_last: the biases one after the other, again and again
      constexpr int64_t kShortest = 512;  // of a run: below that its end, a vector in part, costs too much
      if (channels < kShortest) row = row.repeat({kShortest / channels});
      c.b_is_row = true;
      c.run = row.numel();
    } else if (channels > 1) {
      c.run = stride;
      c.channels = channels;
    }
    c.b = row.const_data_ptr();
  }
  auto kernel = kernels(x.scalar_type()).bias_act[order];
  at::parallel_for(0, n, kGrain, [&](int64_t begin, int64_t end) { kernel(c, begin, end); });
  return out;
}

at::Tensor bias_act(const at::Tensor& x, const std::optional<at::Tensor>& b, int64_t dim, std::string_view act,
                    double alpha, double gain, double clamp) {
  return run(0, {}, dense(x), b, dim, act, alpha, gain, clamp);
}

at::Tensor bias_act_backward(const at::Tensor& grad, const at::Tensor& saved, const std::optional<at::Tensor>& b,
                             int64_t dim, std::string_view act, double alpha, double gain, double clamp) {
  at::Tensor x = dense(saved), g = ordered_like(grad, x);
  BiasAct c{};
  c.grad = g.const_data_ptr();
  return run(1, c, x, b, dim, act, alpha, gain, clamp);
}

at::Tensor bias_act_backward2(const at::Tensor& gradgrad, const at::Tensor& grad, const at::Tensor& saved,
                              const std::optional<at::Tensor>& b, int64_t dim, std::string_view act, double alpha,
                              double gain, double clamp) {
  TORCH_CHECK_VALUE(act != "linear" && act != "relu" && act != "lrelu", act, " has no second derivative");
  at::Tensor x = dense(saved), g = ordered_like(grad, x), gg = ordered_like(gradgrad, x);
  BiasAct c{};
  c.grad = g.const_data_ptr();
  c.gradgrad = gg.const_data_ptr();
  return run(2, c, x, b, dim, act, alpha, gain, clamp);
}

}  // namespace

TORCH_LIBRARY_IMPL(acne_lab, CPU, m) {
  m.impl("bias_act", bias_act);
  m.impl("bias_act_backward", bias_act_backward);
  m.impl("bias_act_backward2", bias_act_backward2);
}

}  // namespace acne_lab
