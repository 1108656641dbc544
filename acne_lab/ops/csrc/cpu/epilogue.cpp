#include <torch/library.h>

#include "cpu/host.h"

namespace acne_lab {
namespace {

using OptionalTensor = std::optional<at::Tensor>;

// scale [N, C], noise [1 or N, 1, H, W] and b [C] in the type of arithmetic; ones and zeros where absent.
struct Operands {
  Operands(const at::Tensor& y, const OptionalTensor& scale_, const OptionalTensor& noise_, const OptionalTensor& b_) {
    const int64_t n = y.size(0), c = y.size(1), h = y.size(2), w = y.size(3);
    const at::ScalarType type = sum_type(y.scalar_type());
    if (scale_) {
      TORCH_CHECK_VALUE(scale_->sizes() == at::IntArrayRef({n, c}), "scale must have shape ", at::IntArrayRef({n, c}));
      scale = scale_->to(type).contiguous();
      scale_stride = c;
    } else {
      scale = at::ones({c}, y.options().dtype(type));
    }
    if (noise_) {
      const bool one = noise_->dim() == 4 && noise_->size(0) == 1;
      TORCH_CHECK_VALUE(noise_->sizes() == at::IntArrayRef({one ? 1 : n, 1, h, w}), "noise must have shape ",
                        at::IntArrayRef({n, 1, h, w}), " or one image of it");
      noise = noise_->to(type).contiguous();
      noise_row_stride = w;
      noise_stride = one ? 0 : h * w;
    } else {
      noise = at::zeros({w}, y.options().dtype(type));
    }
    if (b_) {
      TORCH_CHECK_VALUE(b_->sizes() == at::IntArrayRef({c}), "b must have shape ", at::IntArrayRef({c}));
      b = b_->to(type).contiguous();
    } else {
      b = at::zeros({c}, y.options().dtype(type));
    }
  }

  // To an Epilogue or an EpilogueBackward, which point to them.
  template <class Call>
  void give_to(Call& c) const {
    c.scale = scale.const_data_ptr();
    c.scale_stride = scale_stride;
    c.noise = noise.const_data_ptr();
    c.noise_stride = noise_stride;
    c.noise_row_stride = noise_row_stride;
    c.b = b.const_data_ptr();
  }

 private:
  at::Tensor scale, noise, b;
  int64_t scale_stride = 0, noise_stride = 0, noise_row_stride = 0;
};

at::Tensor epilogue(const at::Tensor& input, const OptionalTensor& scale, const OptionalTensor& noise,
                    const OptionalTensor& b, const OptionalTensor& f, at::IntArrayRef padding, double filter_gain,
                    double alpha, double gain, double clamp) {
  const at::Tensor x = with_dense_rows(input);
  std::optional<PreparedFilter> prepared;
  int64_t height = x.size(2), width = x.size(3);
  if (f) {
    prepared.emplace(x, *f, at::IntArrayRef({1, 1}), at::IntArrayRef({1, 1}), padding, false, filter_gain);
    height = prepared->filter.y.out;
    width = prepared->filter.x.out;
  }
  at::Tensor y = at::empty({x.size(0), x.size(1), height, width}, x.options().memory_format(x.suggest_memory_format()));
  const Operands operands(y, scale, noise, b);
  if (y.numel() == 0) return y;

  Epilogue c{};
  c.y = y.data_ptr();
  c.x = planes_of(x);
  c.filter = prepared ? &prepared->filter : nullptr;
  c.height = height;
  c.width = width;
  c.channels = x.size(1);
  operands.give_to(c);
  c.alpha = alpha;
  c.gain = gain;
  c.clamp = rounded(clamp, x.scalar_type());

  const Kernels& k = kernels(x.scalar_type());
  const int64_t rows = c.x.num_planes * height, row = width * c.x.interleaved;
  at::parallel_for(0, rows, std::max<int64_t>(1, kGrain / row), [&](int64_t begin, int64_t end) {
    Scratch scratch(c.filter ? k.filter_scratch_bytes(*c.filter, c.x.interleaved) : 0);
    k.epilogue(c, begin, end, scratch.data());
  });
  return y;
}

// Adds up sums[task][2][channels] in the order of the tasks.
template <class T>
void add_up(const at::Tensor& sums, int64_t tasks_per_image, const OptionalTensor& scale, at::Tensor& grad_scale,
            at::Tensor& grad_b) {
  const int64_t n = grad_scale.size(0), channels = grad_scale.size(1);
  const T* s = sums.const_data_ptr<T>();
  std::vector<double> dz(channels), dzx(channels);
  for (int64_t i = 0; i < n; i++) {
    std::fill(dzx.begin(), dzx.end(), 0.0);
    for (int64_t task = 0; task < tasks_per_image; task++, s += 2 * channels) {
      for (int64_t c = 0; c < channels; c++) {
        dz[c] += s[c];
        dzx[c] += s[channels + c];
      }
    }
    T* row = grad_scale.mutable_data_ptr<T>() + i * channels;
    for (int64_t c = 0; c < channels; c++) row[c] = T(dzx[c]);
  }
  for (int64_t c = 0; c < channels; c++) grad_b.mutable_data_ptr<T>()[c] = T(dz[c]);
  if (scale) grad_scale.div_(*scale);
}

std::tuple<at::Tensor, at::Tensor, at::Tensor, at::Tensor> epilogue_backward(
    const at::Tensor& grad, const at::Tensor& output, const OptionalTensor& scale, const OptionalTensor& noise,
    const OptionalTensor& b, double alpha, double gain, double clamp) {
  const bool last = is_channels_last(output);
  const at::Tensor y = output.contiguous(output.suggest_memory_format()), g = ordered_like(grad, y);
  const Operands operands(y, scale, noise, b);
  const int64_t n = y.size(0), channels = y.size(1), h = y.size(2), w = y.size(3);
  const auto small = y.options().dtype(sum_type(y.scalar_type()));
  at::Tensor grad_x = at::empty_like(y);
  at::Tensor grad_scale = at::zeros({n, channels}, small), grad_b = at::zeros({channels}, small);
  at::Tensor grad_noise;
  if (noise) grad_noise = at::zeros({n, 1, h, w}, small);
  auto in_type_of = [&](const OptionalTensor& operand, const at::Tensor& gradient) {
    return operand ? gradient.to(operand->scalar_type()) : at::empty({0}, y.options());
  };
  if (y.numel() > 0) {
    EpilogueBackward c{};
    c.grad_x = grad_x.data_ptr();
    c.grad = g.const_data_ptr();
    c.y = y.const_data_ptr();
    c.channels_last = last;
    c.height = h;
    c.width = w;
    c.channels = channels;
    operands.give_to(c);
    c.grad_noise = noise ? grad_noise.data_ptr() : nullptr;
    c.alpha = alpha;
    c.gain = gain;
    c.clamp = rounded(clamp, y.scalar_type());

    // Tasks do not depend on the number of threads, so neither does the order of the sums. They are large enough
    // for their sums to be small beside what they read.
    const int64_t pixels = std::max<int64_t>(kGrain / channels, last ? 128 : 4096);
    c.rows_per_task = std::clamp<int64_t>(pixels / w, 1, h);
    const int64_t tasks_per_image = (h - 1) / c.rows_per_task + 1, tasks = n * tasks_per_image;
    at::Tensor sums = at::empty({tasks, 2, channels}, small);
    c.sums = sums.data_ptr();
    auto kernel = kernels(y.scalar_type()).epilogue_backward;
    at::parallel_for(0, tasks, 1, [&](int64_t begin, int64_t end) { kernel(c, begin, end); });

    if (small.dtype() == at::kDouble) {
      add_up<double>(sums, tasks_per_image, scale, grad_scale, grad_b);
    } else {
      add_up<float>(sums, tasks_per_image, scale, grad_scale, grad_b);
    }
  }
  if (noise && noise->size(0) != n) grad_noise = grad_noise.sum(0, true);
  return {grad_x, in_type_of(scale, grad_scale), in_type_of(noise, grad_noise), in_type_of(b, grad_b)};
}

}  // namespace

TORCH_LIBRARY_IMPL(acne_lab, CPU, m) {
  m.impl("epilogue", epilogue);
  m.impl("epilogue_backward", epilogue_backward);
}

}  // namespace acne_lab
