// A vector of floats or doubles, as wide as the instruction set of this translation unit.
//
// Built on GCC's vector extension, so that the same text becomes AVX-512, AVX2, SSE2 or NEON. Intrinsics appear
// where the extension has no word: half precision and the partial loads and stores at the end of a row.
// What includes this must not call inline functions of the standard library: the linker keeps one copy of each,
// and that could be the one that was compiled for AVX-512.
#pragma once

#include <cstdint>
#include <utility>

#include "common/activations.h"
#include "cpu/kernels.h"

#if defined(__AVX512F__)
#define ACNE_ISA avx512
#elif defined(__AVX2__)
#define ACNE_ISA avx2
#else
#define ACNE_ISA baseline
#endif

#if defined(__AVX2__)
#include <immintrin.h>
#endif

namespace acne_lab::ACNE_ISA {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX2__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif

template <class T>
struct Registers;
template <>
struct Registers<float> {
  typedef float Raw __attribute__((vector_size(kVectorBytes)));
  typedef int32_t Mask __attribute__((vector_size(kVectorBytes)));
};
template <>
struct Registers<double> {
  typedef double Raw __attribute__((vector_size(kVectorBytes)));
  typedef int64_t Mask __attribute__((vector_size(kVectorBytes)));
};

template <class T>
struct Vec {
  static constexpr int size = kVectorBytes / sizeof(T);
  using Raw = typename Registers<T>::Raw;
  using Mask = typename Registers<T>::Mask;  // of comparisons: all bits of a lane, or none
  Raw raw;

  Vec() = default;
  ACNE_INLINE Vec(Raw r) : raw(r) {}
  ACNE_INLINE explicit Vec(T x) : raw(x - Raw{}) {}  // fills every lane; x - 0 is x, also for -0

  ACNE_INLINE Vec operator-() const { return -raw; }
  ACNE_INLINE friend Vec operator+(Vec a, Vec b) { return a.raw + b.raw; }
  ACNE_INLINE friend Vec operator-(Vec a, Vec b) { return a.raw - b.raw; }
  ACNE_INLINE friend Vec operator*(Vec a, Vec b) { return a.raw * b.raw; }
  ACNE_INLINE friend Vec operator/(Vec a, Vec b) { return a.raw / b.raw; }
  ACNE_INLINE friend Mask operator>(Vec a, Vec b) { return a.raw > b.raw; }
  ACNE_INLINE friend Mask operator<(Vec a, Vec b) { return a.raw < b.raw; }
  ACNE_INLINE friend Mask operator<=(Vec a, Vec b) { return a.raw <= b.raw; }
  ACNE_INLINE friend Vec select(Mask m, Vec a, Vec b) { return m ? a.raw : b.raw; }
  ACNE_INLINE friend Vec abs(Vec a) { return select(a < Vec(0), -a, a); }
};

// ---- bits --------------------------------------------------------------------------------------------

template <class To, class From>
ACNE_INLINE To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  __builtin_memcpy(&to, &from, sizeof to);
  return to;
}

constexpr int kFloats = Vec<float>::size;
typedef uint32_t UInts __attribute__((vector_size(kVectorBytes)));
typedef uint16_t UShorts __attribute__((vector_size(kVectorBytes / 2)));

ACNE_INLINE Vec<float> widen(UShorts bfloat16) {
  return bit_cast<Vec<float>::Raw>(__builtin_convertvector(bfloat16, UInts) << 16);
}

ACNE_INLINE UShorts narrow(Vec<float> x) {  // to bfloat16, nearest even
  UInts bits = bit_cast<UInts>(x.raw);
  UInts rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
  UInts magnitude = bits & 0x7fffffff;
  UInts is_nan = bit_cast<UInts>(magnitude > 0x7f800000);
  return __builtin_convertvector((rounded & ~is_nan) | (0x7fc0 & is_nan), UShorts);
}

ACNE_INLINE float half_to_float(uint16_t half) {
  uint32_t magnitude = uint32_t(half & 0x7fff) << 13;
  float scaled = bit_cast<float>(magnitude) * 0x1p112f;  // moves the exponent's bias; right for subnormals too
  uint32_t bits = bit_cast<uint32_t>(scaled);
  if (magnitude >= 0x0f800000) bits |= 0x7f800000;  // infinities and NaNs
  return bit_cast<float>(bits | uint32_t(half & 0x8000) << 16);
}

ACNE_INLINE uint16_t float_to_half(float x) {  // nearest even
  uint32_t bits = bit_cast<uint32_t>(x), magnitude = bits & 0x7fffffff, half;
  if (magnitude > 0x7f800000) {
    half = 0x7e00;
  } else if (magnitude >= 0x47800000) {  // 65536 and more
    half = 0x7c00;
  } else if (magnitude < 0x38800000) {  // subnormal: the addition rounds at 2^-24
    half = bit_cast<uint32_t>(bit_cast<float>(magnitude) + 0.5f) - bit_cast<uint32_t>(0.5f);
  } else {
    half = (magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1)) >> 13;
  }
  return uint16_t(half | (bits >> 16 & 0x8000));
}

// ---- loads and stores --------------------------------------------------------------------------------

// load(p) and store(p, v) move a whole vector, load(p, n) and store(p, v, n) its first n < size lanes and touch
// no memory beyond them; the other lanes are 0. Sixteen-bit types become floats.

template <class T>
ACNE_INLINE Vec<T> load(const T* p) {
  typename Vec<T>::Raw raw;
  __builtin_memcpy(&raw, p, sizeof raw);
  return raw;
}

template <class T>
ACNE_INLINE void store(T* p, Vec<T> v) {
  __builtin_memcpy(p, &v.raw, sizeof v.raw);
}

ACNE_INLINE Vec<float> load(const BFloat16* p) {
  UShorts bits;
  __builtin_memcpy(&bits, p, sizeof bits);
  return widen(bits);
}

ACNE_INLINE void store(BFloat16* p, Vec<float> v) {
  UShorts bits = narrow(v);
  __builtin_memcpy(p, &bits, sizeof bits);
}

#if defined(__AVX512F__)
ACNE_INLINE Vec<float> load(const Half* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
ACNE_INLINE void store(Half* p, Vec<float> v) { _mm256_storeu_si256((__m256i*)p, _mm512_cvtps_ph(v.raw, 0)); }
#elif defined(__AVX2__)
ACNE_INLINE Vec<float> load(const Half* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
ACNE_INLINE void store(Half* p, Vec<float> v) { _mm_storeu_si128((__m128i*)p, _mm256_cvtps_ph(v.raw, 0)); }
#else
ACNE_INLINE Vec<float> load(const Half* p) {
  Vec<float> v;
  for (int i = 0; i < kFloats; i++) v.raw[i] = half_to_float(p[i].bits);
  return v;
}
ACNE_INLINE void store(Half* p, Vec<float> v) {
  for (int i = 0; i < kFloats; i++) p[i].bits = float_to_half(v.raw[i]);
}
#endif

#if defined(__AVX512F__)
ACNE_INLINE Vec<float> load(const float* p, int n) { return _mm512_maskz_loadu_ps((1u << n) - 1, p); }
ACNE_INLINE void store(float* p, Vec<float> v, int n) { _mm512_mask_storeu_ps(p, (1u << n) - 1, v.raw); }
#elif defined(__AVX2__)
ACNE_INLINE __m256i first_lanes(int n) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
ACNE_INLINE Vec<float> load(const float* p, int n) { return _mm256_maskload_ps(p, first_lanes(n)); }
ACNE_INLINE void store(float* p, Vec<float> v, int n) { _mm256_maskstore_ps(p, first_lanes(n), v.raw); }
#endif

template <class T>
ACNE_INLINE auto load(const T* p, int n) -> decltype(load(p)) {
  T lanes[decltype(load(p))::size] = {};
  for (int i = 0; i < n; i++) lanes[i] = p[i];
  return load(lanes);
}

template <class T, class V>
ACNE_INLINE void store(T* p, V v, int n) {
  T lanes[V::size];
  store(lanes, v);
  for (int i = 0; i < n; i++) p[i] = lanes[i];
}

// Of a lambda: without it, what it captures would be read from memory again and again.
#define ACNE_INLINED __attribute__((always_inline))

// for_vectors(n, f) calls f(i, lanes) for the vectors that make up 0 <= i < n. `lanes` goes to load and store:
// Whole, or what is left for the last one.
struct Whole {};

template <class T>
ACNE_INLINE auto load(const T* p, Whole) {
  return load(p);
}
template <class T, class V>
ACNE_INLINE void store(T* p, V v, Whole) {
  store(p, v);
}

template <class T, class F>
ACNE_INLINE void for_vectors(int64_t n, F f) {
  int64_t i = 0;
  for (; i + Vec<T>::size <= n; i += Vec<T>::size) f(i, Whole{});
  if (i < n) f(i, int(n - i));
}

// Asks for memory a little further on. Processors do so by themselves, but not well enough where several rows are
// read or written: writing waits longest, because a line of the cache is read before it is written.
constexpr int64_t kAhead = 2048;  // bytes

template <class T>
ACNE_INLINE void prefetch(const T* p, int64_t elements = kAhead / sizeof(T)) {
  __builtin_prefetch(p + elements);
}

// ---- permutations ------------------------------------------------------------------------------------

template <class T, int... I>
ACNE_INLINE Vec<T> permute(Vec<T> a, Vec<T> b, std::integer_sequence<int, I...>) {
  return __builtin_shuffle(a.raw, b.raw, typename Vec<T>::Mask{I...});
}

template <int Scale, int Offset, int... I>
constexpr auto every(std::integer_sequence<int, I...>) {
  return std::integer_sequence<int, (Scale * I + Offset)...>{};
}

template <int Size, int Offset, int... I>
constexpr auto alternating(std::integer_sequence<int, I...>) {  // a[Offset], b[Offset], a[Offset + 1], ...
  return std::integer_sequence<int, (I / 2 + Offset + (I % 2) * Size)...>{};
}

template <class T>
using Lanes = std::make_integer_sequence<int, Vec<T>::size>;

// Samples 0, 2, 4, ... and 1, 3, 5, ... of a followed by b.
template <class T>
ACNE_INLINE Vec<T> even(Vec<T> a, Vec<T> b) {
  return permute(a, b, decltype(every<2, 0>(Lanes<T>{})){});
}
template <class T>
ACNE_INLINE Vec<T> odd(Vec<T> a, Vec<T> b) {
  return permute(a, b, decltype(every<2, 1>(Lanes<T>{})){});
}

// a[0], b[0], a[1], b[1], ...: the first half of the sequence, and the second.
template <class T>
ACNE_INLINE Vec<T> interleave_low(Vec<T> a, Vec<T> b) {
  return permute(a, b, decltype(alternating<Vec<T>::size, 0>(Lanes<T>{})){});
}
template <class T>
ACNE_INLINE Vec<T> interleave_high(Vec<T> a, Vec<T> b) {
  return permute(a, b, decltype(alternating<Vec<T>::size, Vec<T>::size / 2>(Lanes<T>{})){});
}

template <int Half, class T>
ACNE_INLINE T sum_folded(Vec<T> v) {
  if constexpr (Half == 0) {
    return v.raw[0];
  } else {
    return sum_folded<Half / 2>(v + permute(v, v, decltype(every<1, Half>(Lanes<T>{})){}));
  }
}
template <class T>
ACNE_INLINE T sum(Vec<T> v) {
  return sum_folded<Vec<T>::size / 2>(v);
}

// ---- mathematics -------------------------------------------------------------------------------------

// Of doubles, which serve to check derivatives, lane by lane.
#define ACNE_LANE_BY_LANE(function)                                                          \
  ACNE_INLINE Vec<double> function(Vec<double> x) {                                          \
    for (int i = 0; i < Vec<double>::size; i++) x.raw[i] = acne_lab::function(x.raw[i]);     \
    return x;                                                                                \
  }
ACNE_LANE_BY_LANE(exp)
ACNE_LANE_BY_LANE(expm1)
ACNE_LANE_BY_LANE(log1p)
ACNE_LANE_BY_LANE(tanh)
#undef ACNE_LANE_BY_LANE

template <class... Rest>
ACNE_INLINE Vec<float> polynomial(Vec<float> x, float highest, Rest... rest) {
  Vec<float> p(highest);
  ((p = p * x + Vec<float>(rest)), ...);
  return p;
}

// x = n ln 2 + r with |r| <= ln(2) / 2, and e^r - 1 by its Taylor series: the next term is below 2^-27 |r|.
struct ReducedExp {
  Vec<float> n, expm1_r;
};

ACNE_INLINE ReducedExp reduce_exp(Vec<float> x) {
  Vec<float> rounder(12582912.0f);  // 1.5 * 2^23: adding it leaves no fraction
  Vec<float> n = (x * Vec<float>(1.44269504f) + rounder) - rounder;
  Vec<float> r = x - n * Vec<float>(0.693145751953125f) - n * Vec<float>(1.42860677e-6f);
  Vec<float> p = polynomial(r, 1.0f / 5040, 1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 1.0f / 2);
  return {n, p * r * r + r};
}

ACNE_INLINE Vec<float> exp2_integer(Vec<float> n) {  // for -126 <= n <= 127
  auto integer = __builtin_convertvector(n.raw, Vec<float>::Mask);
  return bit_cast<Vec<float>::Raw>((bit_cast<UInts>(integer) + 127) << 23);
}

ACNE_INLINE Vec<float> between(float low, Vec<float> x, float high) {  // a NaN stays one
  return select(x < Vec<float>(low), Vec<float>(low), select(x > Vec<float>(high), Vec<float>(high), x));
}

ACNE_INLINE Vec<float> exp(Vec<float> x) {
  ReducedExp e = reduce_exp(between(-110, x, 100));
  Vec<float> half_n = (e.n * Vec<float>(0.5f) + Vec<float>(12582912.0f)) - Vec<float>(12582912.0f);
  return (e.expm1_r + Vec<float>(1)) * exp2_integer(half_n) * exp2_integer(e.n - half_n);
}

ACNE_INLINE Vec<float> expm1(Vec<float> x) {  // larger than e^80 - 1 it never gets: activations stay below
  ReducedExp e = reduce_exp(between(-30, x, 80));
  Vec<float> scale = exp2_integer(e.n);
  return scale * e.expm1_r + (scale - Vec<float>(1));
}

// For 0 <= x <= 1, all that softplus asks: 2 atanh(s) with s = x / (2 + x) <= 1/3, to the term s^15.
ACNE_INLINE Vec<float> log1p(Vec<float> x) {
  Vec<float> s = x / (Vec<float>(2) + x);
  return s * polynomial(s * s, 2.0f / 15, 2.0f / 13, 2.0f / 11, 2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3, 2.0f);
}

ACNE_INLINE Vec<float> tanh(Vec<float> x) {
  Vec<float> t = expm1(between(0, abs(x), 10) * Vec<float>(2));
  Vec<float> y = t / (t + Vec<float>(2));
  return select(x < Vec<float>(0), -y, y);
}

}  // namespace acne_lab::ACNE_ISA
