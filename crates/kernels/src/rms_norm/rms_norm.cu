// RMSNorm forward and backward for CUDA. The same text is compiled by nvcc for the device and by a host C++ compiler in
// the tests (see tests/emulation/cuda_emulation.h), so only what both know is used here.
//
// A sum over a row runs in a fixed order: each thread over its columns, lanes of a warp by shuffles, warps by one thread
// after the other. There are no atomic operations, hence the same bits for the same launch. Parts of the weight's gradient
// are kept apart for each block of threads and are then summed in the order of blocks.
#ifdef __CUDACC__
#define KERNEL extern "C" __global__ void
#define DEVICE static __device__ __forceinline__
#define SHARED(type, name, length) __shared__ type name[length]
#define DYNAMIC_SHARED(type, name)                              \
    extern __shared__ __align__(16) unsigned char name##_raw[]; \
    type *name = reinterpret_cast<type *>(name##_raw)
#else
#include "cuda_emulation.h"
#endif

// A barrier with a number, so that a test can leave one out and see that it is missed.
#ifndef DROPPED_BARRIER
#define DROPPED_BARRIER 0
#endif
#define BARRIER(number)                  \
    do {                                 \
        if ((number) != DROPPED_BARRIER) \
            __syncthreads();             \
    } while (0)

typedef unsigned long long Index;

#define WARP 32
#define MOST_WARPS 32

DEVICE float reciprocal_root(float x) { return 1.0f / sqrtf(x); }
DEVICE double reciprocal_root(double x) { return 1.0 / sqrt(x); }

// The sum of `value` over the threads of a block, the same bits in each. blockDim.x is a multiple of the warp.
template <typename T> DEVICE T sum_over_block(T value) {
    SHARED(T, of_warp, MOST_WARPS);
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    if (threadIdx.x % WARP == 0)
        of_warp[threadIdx.x / WARP] = value;
    BARRIER(1);
    T sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / WARP; warp++)
        sum += of_warp[warp];
    // The next sum writes `of_warp` again.
    BARRIER(2);
    return sum;
}

// y = x * rstd * weight; one block of threads for a row at a time.
template <typename T>
DEVICE void forward(const T *x, const T *weight, T *y, T *rstd, Index rows, Index hidden, T eps) {
    for (Index row = blockIdx.x; row < rows; row += gridDim.x) {
        const T *x_row = x + row * hidden;
        T squares = 0;
        for (Index c = threadIdx.x; c < hidden; c += blockDim.x)
            squares += x_row[c] * x_row[c];
        T r = reciprocal_root(sum_over_block(squares) / (T)hidden + eps);
        if (threadIdx.x == 0)
            rstd[row] = r;
        for (Index c = threadIdx.x; c < hidden; c += blockDim.x)
            y[row * hidden + c] = x_row[c] * r * weight[c];
    }
}

// dx (+)= rstd * (g - xhat * mean(g * xhat)) with g = dy * weight. Where `partial` [gridDim.x, hidden] is given, each block
// writes there its rows' sum of dy * xhat; every thread has columns of its own, so nothing is shared.
template <typename T>
DEVICE void backward(const T *x, const T *weight, const T *rstd, const T *dy, T *dx, int accumulate, T *partial,
                     Index rows, Index hidden) {
    if (partial)
        for (Index c = threadIdx.x; c < hidden; c += blockDim.x)
            partial[blockIdx.x * hidden + c] = 0;
    for (Index row = blockIdx.x; row < rows; row += gridDim.x) {
        Index start = row * hidden;
        T r = rstd[row];
        T products = 0;
        for (Index c = threadIdx.x; c < hidden; c += blockDim.x)
            products += dy[start + c] * weight[c] * x[start + c];
        T pull = sum_over_block(products) / (T)hidden * r * r;
        for (Index c = threadIdx.x; c < hidden; c += blockDim.x) {
            Index at = start + c;
            T gradient = r * (dy[at] * weight[c] - x[at] * pull);
            if (partial)
                partial[blockIdx.x * hidden + c] += dy[at] * (x[at] * r);
            dx[at] = accumulate ? dx[at] + gradient : gradient;
        }
    }
}

// dw += the sum of `parts` rows of `partial`: a block has 32 columns, one for each thread along x; threads along y take
// parts in turn, and the first of them adds their sums in order. Dynamic shared memory: one T for each thread.
template <typename T> DEVICE void sum_parts(const T *partial, T *dw, Index parts, Index hidden) {
    DYNAMIC_SHARED(T, sums);
    Index column = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    T sum = 0;
    if (column < hidden)
        for (Index part = threadIdx.y; part < parts; part += blockDim.y)
            sum += partial[part * hidden + column];
    sums[threadIdx.y * blockDim.x + threadIdx.x] = sum;
    BARRIER(3);
    if (threadIdx.y == 0 && column < hidden) {
        T total = 0;
        for (unsigned y = 0; y < blockDim.y; y++)
            total += sums[y * blockDim.x + threadIdx.x];
        dw[column] += total;
    }
}

#define FOR_TYPE(T, name)                                                                                                  \
    KERNEL rms_norm_forward_##name(const T *x, const T *weight, T *y, T *rstd, Index rows, Index hidden, double eps) {     \
        forward<T>(x, weight, y, rstd, rows, hidden, (T)eps);                                                              \
    }                                                                                                                      \
    KERNEL rms_norm_backward_##name(const T *x, const T *weight, const T *rstd, const T *dy, T *dx, int accumulate,        \
                                    T *partial, Index rows, Index hidden) {                                                \
        backward<T>(x, weight, rstd, dy, dx, accumulate, partial, rows, hidden);                                           \
    }                                                                                                                      \
    KERNEL rms_norm_sum_parts_##name(const T *partial, T *dw, Index parts, Index hidden) {                                 \
        sum_parts<T>(partial, dw, parts, hidden);                                                                          \
    }

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
