// bias_act and its derivatives.
#pragma once

#include "cpu/vec.h"

namespace acne_lab::ACNE_ISA {

template <int Order, Act A, class T>
void bias_act_range(const BiasAct& c, int64_t begin, int64_t end) {
  using S = Sum<T>;
  using V = Vec<S>;
  constexpr bool adds_b = Order == 0 || Activation<A>::from_input;
  const auto k = act_constants<S>(c.alpha, c.gain, c.clamp);
  const S* b = (const S*)c.b;
  while (begin < end) {
    int64_t run = begin / c.run, run_end = (run + 1) * c.run;
    if (run_end > end) run_end = end;
    const S* row = c.b_is_row ? b + (begin - run * c.run) : nullptr;
    const V constant(row || !b ? S(0) : b[run % c.channels]);
    const T *x = (const T*)c.x + begin, *grad = (const T*)c.grad + begin, *gradgrad = (const T*)c.gradgrad + begin;
    T* out = (T*)c.out + begin;
    for_vectors<S>(run_end - begin, [&](int64_t i, auto lanes) ACNE_INLINED {
      prefetch(out + i);
      V v = load(x + i, lanes);
      if constexpr (adds_b) v = v + (row ? load(row + i, lanes) : constant);
      if constexpr (Order == 0) {
        v = act_forward<A>(v, k);
      } else if constexpr (Order == 1) {
        v = act_backward<A>(load(grad + i, lanes), v, k);
      } else {
        v = act_backward2<A>(load(gradgrad + i, lanes), load(grad + i, lanes), v, k);
      }
      store(out + i, v, lanes);
    });
    begin = run_end;
  }
}

template <int Order, Act A, class T>
void bias_act_of(const BiasAct& c, int64_t begin, int64_t end) {
  if constexpr (Order < 2 || Activation<A>::has_curvature) bias_act_range<Order, A, T>(c, begin, end);
}

template <int Order, class T>
void bias_act(const BiasAct& c, int64_t begin, int64_t end) {
  switch (c.act) {
    case Act::linear: return bias_act_of<Order, Act::linear, T>(c, begin, end);
    case Act::relu: return bias_act_of<Order, Act::relu, T>(c, begin, end);
    case Act::lrelu: return bias_act_of<Order, Act::lrelu, T>(c, begin, end);
    case Act::tanh: return bias_act_of<Order, Act::tanh, T>(c, begin, end);
    case Act::sigmoid: return bias_act_of<Order, Act::sigmoid, T>(c, begin, end);
    case Act::elu: return bias_act_of<Order, Act::elu, T>(c, begin, end);
    case Act::selu: return bias_act_of<Order, Act::selu, T>(c, begin, end);
    case Act::softplus: return bias_act_of<Order, Act::softplus, T>(c, begin, end);
    case Act::swish: return bias_act_of<Order, Act::swish, T>(c, begin, end);
  }
}

}  // namespace acne_lab::ACNE_ISA
