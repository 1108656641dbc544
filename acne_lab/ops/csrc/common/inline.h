// ACNE_INLINE: a function of the common headers, for the host and for the device.
#pragma once

#if defined(__CUDACC__)
#define ACNE_INLINE __host__ __device__ __forceinline__
#else
#define ACNE_INLINE inline __attribute__((always_inline))
#endif
