// Stands in for acne_lab/ops/csrc/cuda: needs the CUDA runtime to be loaded, and a device only to be called.
__global__ void fill(float* x, float value) { x[threadIdx.x] = value; }

extern "C" void fill_32(float* x, float value) { fill<<<1, 32>>>(x, value); }
