// torch.ops.acne_lab.* on CUDA: checks, outputs and the layout of memory; the kernels are in the .cu files.
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/sum.h>
#include <ATen/ops/zeros_like.h>
#include <torch/library.h>

#include <array>
#include <cstdlib>
#include <optional>
#include <string_view>
#include <tuple>

#include "cuda/kernels.h"
#include "cuda/stream.h"

namespace acne_lab::cuda {
namespace {

using at::IntArrayRef;
using at::Tensor;
using OptionalTensor = std::optional<Tensor>;

Type type_of(const Tensor& x) {
  switch (x.scalar_type()) {
    case at::kDouble: return Type::f64;
    case at::kFloat: return Type::f32;
    case at::kHalf: return Type::f16;
    case at::kBFloat16: return Type::bf16;
    default: TORCH_CHECK_VALUE(false, "there is no kernel for tensors of ", x.scalar_type());
  }
}

at::ScalarType sum_type(const Tensor& x) { return x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat; }

// A bias, scale or noise for `x` as the kernels read it; undefined for none. The float32 parameters of a half-precision
// layer are read as they are.
Tensor term(const OptionalTensor& t, const Tensor& x) {
  if (!t) return {};
  TORCH_CHECK_VALUE(t->device() == x.device(), "tensors are on ", t->device(), " and ", x.device());
  return t->to(sum_type(x)).contiguous();
}

const void* pointer(const Tensor& t) { return t.defined() ? t.const_data_ptr() : nullptr; }

// `x` itself if its memory has neither gaps nor overlaps, else a copy that has not.
Tensor dense(const Tensor& x) {
  return x.is_non_overlapping_and_dense() ? x : x.contiguous(x.suggest_memory_format());
}

Tensor dense_image(const Tensor& x) {
  TORCH_CHECK_VALUE(x.dim() == 4, "images must be [N, C, H, W]");
  return x.contiguous(x.suggest_memory_format());
}

// `x` in the memory order of the dense tensor `like`.
Tensor ordered_like(const Tensor& x, const Tensor& like) {
  TORCH_CHECK_VALUE(x.sizes() == like.sizes() && x.scalar_type() == like.scalar_type() && x.device() == like.device(),
                    "gradients must have the shape, type and device of what was saved");
  for (int64_t d = 0; d < x.dim(); d++)
    if (x.size(d) > 1 && x.stride(d) != like.stride(d)) return at::empty_like(like).copy_(x);
  return x;
}

// --------------------------------------------------------------------------------------------------------- bias_act

Act act_named(std::string_view name) {
  for (int i = 0; i < int(std::size(kActNames)); i++)
    if (kActNames[i] == name) return Act(i);
  TORCH_CHECK_VALUE(false, "there is no activation ", name);
}

// Fills in what the orders have in common.
Tensor run_bias_act(BiasAct c, const Tensor& saved, const OptionalTensor& b_, int64_t dim, std::string_view act,
                    double alpha, double gain, double clamp) {
  Tensor out = at::empty_like(saved);
  if (saved.numel() == 0) return out;
  const Tensor b = term(b_, saved);
  c.saved = saved.const_data_ptr();
  c.b = pointer(b);
  c.out = out.mutable_data_ptr();
  c.size = saved.numel();
  if (b_) {
    TORCH_CHECK_VALUE(b.dim() == 1 && b.size(0) == saved.size(dim), "b must have shape [", saved.size(dim), "]");
    c.count = saved.size(dim);
    c.stride = c.count > 1 ? saved.stride(dim) : c.size;  // that of a single element says nothing
  }
  c.act = act_named(act);
  c.alpha = alpha;
  c.gain = gain;
  c.clamp = clamp;
  const Stream stream(saved);
  bias_act(c, type_of(saved), stream.pointer());
  stream.check();
  return out;
}

Tensor bias_act_forward(const Tensor& x, const OptionalTensor& b, int64_t dim, std::string_view act, double alpha,
                        double gain, double clamp) {
  return run_bias_act({}, dense(x), b, dim, act, alpha, gain, clamp);
}

Tensor bias_act_backward(const Tensor& grad, const Tensor& saved, const OptionalTensor& b, int64_t dim,
                         std::string_view act, double alpha, double gain, double clamp) {
  const Tensor s = dense(saved), g = ordered_like(grad, s);
  BiasAct c{};
  c.order = 1;
  c.grad = g.const_data_ptr();
  return run_bias_act(c, s, b, dim, act, alpha, gain, clamp);
}

Tensor bias_act_backward2(const Tensor& gradgrad, const Tensor& grad, const Tensor& saved, const OptionalTensor& b,
                          int64_t dim, std::string_view act, double alpha, double gain, double clamp) {
  TORCH_CHECK_VALUE(act != "linear" && act != "relu" && act != "lrelu", act, " has no second derivative");
  const Tensor s = dense(saved), g = ordered_like(grad, s), gg = ordered_like(gradgrad, s);
  BiasAct c{};
  c.order = 2;
  c.grad = g.const_data_ptr();
  c.gradgrad = gg.const_data_ptr();
  return run_bias_act(c, s, b, dim, act, alpha, gain, clamp);
}

// -------------------------------------------------------------------------------------------------------- upfirdn2d

// The filter, the output to be written and the geometry of a call. Pairs are (x, y), padding is [x0, x1, y0, y1].
struct Filtering {
  Tensor f, y;
  Resampling resampling{};

  Filtering(const Tensor& x, const Tensor& filter, IntArrayRef up, IntArrayRef down, IntArrayRef padding,
            bool flip_filter, double gain) {
    TORCH_CHECK_VALUE(x.dim() == 4, "images must be [N, C, H, W]");
    TORCH_CHECK_VALUE(filter.dim() == 2 && filter.numel() > 0, "the filter must be [fh, fw]");
    TORCH_CHECK_VALUE(filter.device() == x.device(), "tensors are on ", filter.device(), " and ", x.device());
    TORCH_CHECK_VALUE(up[0] > 0 && up[1] > 0 && down[0] > 0 && down[1] > 0, "up and down must be at least 1");
    f = filter.to(at::kFloat).contiguous();
    const auto axis = [&](int d, int64_t in, int64_t taps) {
      const int64_t before = padding[2 * d], after = padding[2 * d + 1];
      // Positions in the up-sampled image are int.
      TORCH_CHECK_VALUE(in * up[d] + std::abs(before) + std::abs(after) < int64_t(1) << 30, "the image is too large");
      const int64_t out = output_length(in, int(up[d]), int(down[d]), int(before), int(after), int(taps));
      TORCH_CHECK_VALUE(out > 0, "a filter of ", taps, " taps does not fit into ", in, " pixels, up-sampled by ", up[d],
                        " and padded by ", before, " and ", after);
      return Axis{int(up[d]), int(down[d]), int(before), int(taps), int(in), int(out)};
    };
    Resampling& r = resampling;
    r.n = x.size(0);
    r.c = static_cast<int>(x.size(1));
    r.x = axis(0, x.size(3), f.size(1));
    r.y = axis(1, x.size(2), f.size(0));
    y = at::empty({r.n, r.c, r.y.out, r.x.out}, x.options().memory_format(x.suggest_memory_format()));
    r.in_n = x.stride(0), r.in_c = x.stride(1), r.in_y = x.stride(2), r.in_x = x.stride(3);
    r.out_n = y.stride(0), r.out_c = y.stride(1), r.out_y = y.stride(2), r.out_x = y.stride(3);
    r.flip_filter = flip_filter;
    r.gain = gain;
  }
};

Tensor run_upfirdn2d(const Tensor& x, const Tensor& f, IntArrayRef up, IntArrayRef down, IntArrayRef padding,
                     bool flip_filter, double gain) {
  const Filtering call(x, f, up, down, padding, flip_filter, gain);
  if (call.y.numel() == 0) return call.y;
  const Stream stream(x);
  upfirdn2d(x.const_data_ptr(), call.f.const_data_ptr<float>(), call.y.mutable_data_ptr(), call.resampling, type_of(x),
            stream.pointer());
  stream.check();
  return call.y;
}

// --------------------------------------------------------------------------------------------------------- epilogue

// scale [N, C], noise [1 or N, 1, H, W] and b [C] for images like y.
struct Terms {
  Tensor scale, noise, b;
  EpilogueTerms pointers;

  Terms(const Tensor& y, const OptionalTensor& scale_, const OptionalTensor& noise_, const OptionalTensor& b_,
        double alpha, double gain, double clamp)
      : scale(term(scale_, y)), noise(term(noise_, y)), b(term(b_, y)) {
    const int64_t n = y.size(0), c = y.size(1), h = y.size(2), w = y.size(3);
    const bool one = noise_ && noise.dim() == 4 && noise.size(0) == 1;
    TORCH_CHECK_VALUE(!scale_ || scale.sizes() == IntArrayRef({n, c}), "scale must have shape ", IntArrayRef({n, c}));
    TORCH_CHECK_VALUE(!noise_ || noise.sizes() == IntArrayRef({one ? 1 : n, 1, h, w}), "noise must have shape ",
                      IntArrayRef({n, 1, h, w}), " or be one image of it");
    TORCH_CHECK_VALUE(!b_ || b.sizes() == IntArrayRef({c}), "b must have shape ", IntArrayRef({c}));
    pointers = {pointer(scale), pointer(noise), pointer(b), one ? 0 : h * w, alpha, gain, clamp};
  }
};

Matrix matrix(const Tensor& y) {
  const bool channels_last = !y.is_contiguous();
  const int c = static_cast<int>(y.size(1)), pixels = static_cast<int>(y.size(2) * y.size(3));
  return {y.size(0), channels_last ? pixels : c, channels_last ? c : pixels, channels_last};
}

Tensor run_epilogue(const Tensor& x, const OptionalTensor& scale, const OptionalTensor& noise, const OptionalTensor& b,
                    const OptionalTensor& f, IntArrayRef padding, double filter_gain, double alpha, double gain,
                    double clamp) {
  if (f) {
    const Filtering call(x, *f, {1, 1}, {1, 1}, padding, false, filter_gain);
    const Terms terms(call.y, scale, noise, b, alpha, gain, clamp);
    if (call.y.numel() == 0) return call.y;
    const Stream stream(x);
    filtered_epilogue(x.const_data_ptr(), call.f.const_data_ptr<float>(), call.y.mutable_data_ptr(), call.resampling,
                      terms.pointers, type_of(x), stream.pointer());
    stream.check();
    return call.y;
  }
  const Tensor image = dense_image(x), y = at::empty_like(image);
  const Terms terms(y, scale, noise, b, alpha, gain, clamp);
  if (y.numel() == 0) return y;
  const Stream stream(x);
  epilogue(image.const_data_ptr(), y.mutable_data_ptr(), matrix(y), terms.pointers, type_of(x), stream.pointer());
  stream.check();
  return y;
}

// The kernel leaves a sum per tile; torch adds the tiles up, in a fixed order too.
std::tuple<Tensor, Tensor, Tensor, Tensor> run_epilogue_backward(const Tensor& grad_, const Tensor& y_,
                                                                 const OptionalTensor& scale,
                                                                 const OptionalTensor& noise, const OptionalTensor& b,
                                                                 double alpha, double gain, double clamp) {
  const Tensor y = dense_image(y_), grad = ordered_like(grad_, y), grad_x = at::empty_like(y);
  const Terms terms(y, scale, noise, b, alpha, gain, clamp);
  if (y.numel() == 0) {
    const auto zeros = [&](const OptionalTensor& t) { return t ? at::zeros_like(*t) : at::empty({0}, y.options()); };
    return {grad_x, zeros(scale), zeros(noise), zeros(b)};
  }

  const Matrix m = matrix(y);
  EpilogueBackward c{grad.const_data_ptr(), y.const_data_ptr(), grad_x.mutable_data_ptr(), nullptr, nullptr, nullptr};
  const Tiles tiles = epilogue_tiles(c, m, type_of(y));
  const std::array<int64_t, 3> along_rows{m.n, m.rows, tiles.col_tiles}, along_cols{m.n, tiles.row_tiles, m.cols};
  const auto& over_pixels = m.channels_last ? along_cols : along_rows;
  const auto& over_channels = m.channels_last ? along_rows : along_cols;
  const auto sums = [&](const OptionalTensor& t, const std::array<int64_t, 3>& shape) {
    return t ? at::empty(shape, y.options().dtype(sum_type(y)).memory_format(at::MemoryFormat::Contiguous)) : Tensor();
  };
  const Tensor scale_sums = sums(scale, over_pixels), b_sums = sums(b, over_pixels);
  const Tensor noise_sums = sums(noise, over_channels);
  if (scale) c.scale_sums = scale_sums.mutable_data_ptr();
  if (noise) c.noise_sums = noise_sums.mutable_data_ptr();
  if (b) c.b_sums = b_sums.mutable_data_ptr();

  const Stream stream(y);
  epilogue_backward(c, m, terms.pointers, tiles, type_of(y), stream.pointer());
  stream.check();

  const int64_t tile_of_pixels = m.channels_last ? 1 : 2, tile_of_channels = 3 - tile_of_pixels;
  const Tensor none = at::empty({0}, y.options());
  Tensor grad_scale = none, grad_noise = none, grad_b = none;
  if (scale) grad_scale = scale_sums.sum(tile_of_pixels).to(scale->scalar_type());
  if (b) grad_b = b_sums.sum({0, tile_of_pixels}).to(b->scalar_type());
  if (noise) {
    const bool one = noise->size(0) == 1;
    grad_noise = one ? noise_sums.sum({0, tile_of_channels}) : noise_sums.sum(tile_of_channels);
    grad_noise = grad_noise.view(noise->sizes()).to(noise->scalar_type());
  }
  return {grad_x, grad_scale, grad_noise, grad_b};
}

TORCH_LIBRARY_IMPL(acne_lab, CUDA, m) {
  m.impl("bias_act", bias_act_forward);
  m.impl("bias_act_backward", bias_act_backward);
  m.impl("bias_act_backward2", bias_act_backward2);
  m.impl("upfirdn2d", run_upfirdn2d);
  m.impl("epilogue", run_epilogue);
  m.impl("epilogue_backward", run_epilogue_backward);
}

}  // namespace
}  // namespace acne_lab::cuda
