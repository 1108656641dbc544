// y = clamp(gain * act(x + b)) and its derivatives: one text for every device and vector width.
//
// A value type V is float, double or a vector of either. Of vectors the same functions are expected, found by
// their type: select(mask, a, b), abs, exp, expm1, log1p and tanh; V(constant) fills every lane.
//
// Derivatives are computed from what the forward pass leaves behind anyway: its output for every activation
// but swish, which is not monotonic, and x + b for swish. Where a comparison meets a NaN, it takes the side
// that PyTorch's own gradient takes (of elu and selu: the side that PyTorch takes where it uses vectors).
#pragma once

#include <cmath>

#include "common/inline.h"

namespace acne_lab {

enum class Act { linear, relu, lrelu, tanh, sigmoid, elu, selu, softplus, swish };
constexpr const char* kActNames[] = {"linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"};

// The constants of one call. T is the type of arithmetic: float, or double for double tensors.
template <class T>
struct ActConstants {
  T alpha;         // slope of lrelu's negative side, >= 0
  T gain;          // factor on the activation
  T inverse_gain;  // 1 / gain, or 0 where gain is 0 (every derivative is 0 then)
  T clamp;         // limit of |y|, rounded to the tensor's type; negative is none
};

template <class T>
ACNE_INLINE ActConstants<T> act_constants(double alpha, double gain, double clamp) {
  return {T(alpha), T(gain), gain == 0 ? T(0) : T(1 / gain), T(clamp)};
}

// ---- mathematics of scalars --------------------------------------------------------------------------

template <class T>
ACNE_INLINE T select(bool condition, T a, T b) {
  return condition ? a : b;
}

ACNE_INLINE float abs(float x) { return ::fabsf(x); }
ACNE_INLINE float exp(float x) { return ::expf(x); }
ACNE_INLINE float expm1(float x) { return ::expm1f(x); }
ACNE_INLINE float log1p(float x) { return ::log1pf(x); }
ACNE_INLINE float tanh(float x) { return ::tanhf(x); }

ACNE_INLINE double abs(double x) { return ::fabs(x); }
ACNE_INLINE double exp(double x) { return ::exp(x); }
ACNE_INLINE double expm1(double x) { return ::expm1(x); }
ACNE_INLINE double log1p(double x) { return ::log1p(x); }
ACNE_INLINE double tanh(double x) { return ::tanh(x); }

// ---- activations -------------------------------------------------------------------------------------

// Activation<A> has
//   value(x, alpha)      act(x)
//   slope(u, alpha)      act'(x), from u = act(x), or from u = x where `from_input`
//   curvature(u, alpha)  act''(x), likewise; only where `has_curvature`
template <Act>
struct Activation;

struct PiecewiseLinear {
  static constexpr bool from_input = false, has_curvature = false;
};

struct Smooth {
  static constexpr bool from_input = false, has_curvature = true;
};

template <>
struct Activation<Act::linear> : PiecewiseLinear {
  template <class V>
  ACNE_INLINE static V value(V x, V) {
    return x;
  }
  template <class V>
  ACNE_INLINE static V slope(V, V) {
    return V(1);
  }
};

template <>
struct Activation<Act::relu> : PiecewiseLinear {
  template <class V>
  ACNE_INLINE static V value(V x, V) {
    return select(x <= V(0), V(0), x);
  }
  template <class V>
  ACNE_INLINE static V slope(V u, V) {
    return select(u <= V(0), V(0), V(1));
  }
};

template <>
struct Activation<Act::lrelu> : PiecewiseLinear {
  template <class V>
  ACNE_INLINE static V value(V x, V alpha) {
    return select(x > V(0), x, x * alpha);
  }
  template <class V>
  ACNE_INLINE static V slope(V u, V alpha) {
    return select(u > V(0), V(1), alpha);
  }
};

template <>
struct Activation<Act::tanh> : Smooth {
  template <class V>
  ACNE_INLINE static V value(V x, V) {
    return tanh(x);
  }
  template <class V>
  ACNE_INLINE static V slope(V u, V) {
    return V(1) - u * u;
  }
  template <class V>
  ACNE_INLINE static V curvature(V u, V) {
    return V(-2) * u * (V(1) - u * u);
  }
};

template <>
struct Activation<Act::sigmoid> : Smooth {
  template <class V>
  ACNE_INLINE static V value(V x, V) {
    return V(1) / (V(1) + exp(-x));
  }
  template <class V>
  ACNE_INLINE static V slope(V u, V) {
    return u * (V(1) - u);
  }
  template <class V>
  ACNE_INLINE static V curvature(V u, V) {
    return u * (V(1) - u) * (V(1) - u - u);
  }
};

template <>
struct Activation<Act::elu> : Smooth {  // with PyTorch's default slope of 1 at zero
  template <class V>
  ACNE_INLINE static V value(V x, V) {
    return select(x <= V(0), expm1(x), x);
  }
  template <class V>
  ACNE_INLINE static V slope(V u, V) {
    return select(u > V(0), V(1), u + V(1));
  }
  template <class V>
  ACNE_INLINE static V curvature(V u, V) {
    return select(u > V(0), V(0), u + V(1));
  }
};

template <>
struct Activation<Act::selu> : Smooth {  // Klambauer et al. 2017
  static constexpr double scale = 1.0507009873554805, scale_alpha = 1.7580993408473766;
  template <class V>
  ACNE_INLINE static V value(V x, V) {
    return select(x <= V(0), V(scale_alpha) * expm1(x), V(scale) * x);
  }
  template <class V>
  ACNE_INLINE static V slope(V u, V) {
    return select(u > V(0), V(scale), u + V(scale_alpha));
  }
  template <class V>
  ACNE_INLINE static V curvature(V u, V) {
    return select(u > V(0), V(0), u + V(scale_alpha));
  }
};

template <>
struct Activation<Act::softplus> : Smooth {
  static constexpr int linear_from = 20;  // as in PyTorch: beyond it the logarithm is x
  template <class V>
  ACNE_INLINE static V value(V x, V) {
    V y = select(x > V(0), x, V(0)) + log1p(exp(-abs(x)));
    return select(x > V(linear_from), x, y);
  }
  template <class V>
  ACNE_INLINE static V slope(V u, V) {  // sigmoid(x) = 1 - exp(-softplus(x))
    return select(u > V(linear_from), V(1), -expm1(-u));
  }
  template <class V>
  ACNE_INLINE static V curvature(V u, V) {
    V s = -expm1(-u);
    return select(u > V(linear_from), V(0), s * (V(1) - s));
  }
};

template <>
struct Activation<Act::swish> : Smooth {
  static constexpr bool from_input = true;
  template <class V>
  ACNE_INLINE static V value(V x, V) {
    return x / (V(1) + exp(-x));
  }
  template <class V>
  ACNE_INLINE static V slope(V x, V) {
    V s = V(1) / (V(1) + exp(-x));
    return s * (V(1) + x * (V(1) - s));
  }
  template <class V>
  ACNE_INLINE static V curvature(V x, V) {
    V s = V(1) / (V(1) + exp(-x));
    return s * (V(1) - s) * (V(2) + x * (V(1) - s - s));
  }
};

// ---- with gain and clamp -----------------------------------------------------------------------------

template <class V, class T>
ACNE_INLINE V limit(V y, const ActConstants<T>& k) {  // a NaN stays one
  if (k.clamp < T(0)) return y;
  V top = V(k.clamp);
  return select(y > top, top, select(y < -top, -top, y));
}

// The gradient before the clamp: 0 where y is clamped or a NaN.
template <class V, class T>
ACNE_INLINE V limit_backward(V grad, V y, const ActConstants<T>& k) {
  if (k.clamp < T(0)) return grad;
  return select(abs(y) < V(k.clamp), grad, V(0));
}

template <Act A, class V, class T>
ACNE_INLINE V act_forward(V x, const ActConstants<T>& k) {
  return limit(Activation<A>::value(x, V(k.alpha)) * V(k.gain), k);
}

// `saved`: the output y, or x + b where Activation<A>::from_input.
template <Act A, class V, class T>
ACNE_INLINE V act_backward(V grad, V saved, const ActConstants<T>& k) {
  using F = Activation<A>;
  V y = F::from_input ? F::value(saved, V(k.alpha)) * V(k.gain) : saved;
  V u = F::from_input ? saved : saved * V(k.inverse_gain);
  return limit_backward(grad, y, k) * (F::slope(u, V(k.alpha)) * V(k.gain));
}

template <Act A, class V, class T>
ACNE_INLINE V act_backward2(V gradgrad, V grad, V saved, const ActConstants<T>& k) {
  using F = Activation<A>;
  V y = F::from_input ? F::value(saved, V(k.alpha)) * V(k.gain) : saved;
  V u = F::from_input ? saved : saved * V(k.inverse_gain);
  return gradgrad * limit_backward(grad, y, k) * (F::curvature(u, V(k.alpha)) * V(k.gain));
}

// ---- the tail of a synthesis layer -------------------------------------------------------------------

// What one output y of lrelu says: the gradient with respect to z, and z itself, y = clamp(gain * lrelu(z)).
// z is wrong where y is clamped, and 0 where alpha is 0 and y is not positive; dz is 0 in both places.
template <class V>
struct LreluInverse {
  V dz, z;
};

template <class V, class T>
ACNE_INLINE LreluInverse<V> lrelu_inverse(V grad, V y, T inverse_alpha, const ActConstants<T>& k) {
  V u = y * V(k.inverse_gain);
  V z = select(u > V(0), u, u * V(inverse_alpha));
  return {act_backward<Act::lrelu>(grad, y, k), z};
}

}  // namespace acne_lab
