// What every kernel's source is written in: the same words for nvcc, which compiles them for a device, and for a host C++
// compiler, which compiles them for the emulation (emulation.h).
//
// * KERNEL(most_threads, name, (parameters)) begins a kernel; DEVICE any other function. KERNEL_BLOCKS has as many registers a thread as
//   let a multiprocessor hold `least_blocks` blocks.
// * SHARED(type, name, length) is shared memory of a length known here, DYNAMIC_SHARED(type, name) that of the launch.
// * Elements are float, double or bf16. Arithmetic is done in Wide<T>: float for bf16, else the type itself.
// * Pack<T> is 16 bytes of elements; load_pack and store_pack move one in a single access and want it aligned.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#define KERNEL(most_threads, name, parameters) extern "C" __global__ void __launch_bounds__(most_threads) name parameters
#define KERNEL_BLOCKS(most_threads, least_blocks, name, parameters) \
    extern "C" __global__ void __launch_bounds__(most_threads, least_blocks) name parameters
#define DEVICE static __device__ __forceinline__
#define SHARED(type, name, length) __shared__ __align__(16) type name[length]
#define DYNAMIC_SHARED(type, name)                              \
    extern __shared__ __align__(16) unsigned char name##_raw[]; \
    type *name = reinterpret_cast<type *>(name##_raw)
typedef __nv_bfloat16 bf16;
#define CHECK_ACCESS(pointer, bytes, writes) ((void)0)
#else
#include "emulation.h"
#endif

typedef unsigned long long Index;

#define WARP 32
#define MOST_WARPS 32

template <typename T> struct Arithmetic {
    typedef T Wide;
};
template <> struct Arithmetic<bf16> {
    typedef float Wide;
};
template <typename T> using Wide = typename Arithmetic<T>::Wide;

DEVICE float widen(float x) { return x; }
DEVICE double widen(double x) { return x; }
DEVICE float widen(bf16 x) { return __bfloat162float(x); }

template <typename T> struct Narrow {
    DEVICE T of(T x) { return x; }
};
template <> struct Narrow<bf16> {
    DEVICE bf16 of(float x) { return __float2bfloat16_rn(x); }
};
// To the nearest value of the type, ties to even.
template <typename T> DEVICE T narrow(Wide<T> x) { return Narrow<T>::of(x); }

template <typename T> struct alignas(16) Pack {
    static constexpr int LENGTH = 16 / int(sizeof(T));
    T of[16 / sizeof(T)];
};

template <typename T> DEVICE Pack<T> load_pack(const T *from) {
    CHECK_ACCESS(from, sizeof(Pack<T>), false);
    return *reinterpret_cast<const Pack<T> *>(from);
}

template <typename T> DEVICE void store_pack(T *to, const Pack<T> &pack) {
    CHECK_ACCESS(to, sizeof(Pack<T>), true);
    *reinterpret_cast<Pack<T> *>(to) = pack;
}

// The elements that a thread handles at once, widened: a whole pack where rows begin on one (PACKED), else a single one.
template <typename T, bool PACKED> struct Lane {
    static constexpr int WIDTH = PACKED ? Pack<T>::LENGTH : 1;
    Wide<T> of[WIDTH];
    DEVICE Lane load(const T *from) {
        Lane lane;
        if constexpr (PACKED) {
            Pack<T> pack = load_pack(from);
            for (int i = 0; i < WIDTH; i++)
                lane.of[i] = widen(pack.of[i]);
        } else {
            lane.of[0] = widen(*from);
        }
        return lane;
    }
    DEVICE void store(T *to, const Lane &lane) {
        if constexpr (PACKED) {
            Pack<T> pack;
            for (int i = 0; i < WIDTH; i++)
                pack.of[i] = narrow<T>(lane.of[i]);
            store_pack(to, pack);
        } else {
            *to = narrow<T>(lane.of[0]);
        }
    }
    // The same elements where they are kept in the type of the arithmetic: sums, tables.
    DEVICE Lane load_wide(const Wide<T> *from) {
        Lane lane;
        if constexpr (PACKED) {
            for (int i = 0; i < WIDTH; i += Pack<Wide<T>>::LENGTH) {
                Pack<Wide<T>> pack = load_pack(from + i);
                for (int j = 0; j < Pack<Wide<T>>::LENGTH; j++)
                    lane.of[i + j] = pack.of[j];
            }
        } else {
            lane.of[0] = *from;
        }
        return lane;
    }
    DEVICE void store_wide(Wide<T> *to, const Lane &lane) {
        if constexpr (PACKED) {
            for (int i = 0; i < WIDTH; i += Pack<Wide<T>>::LENGTH) {
                Pack<Wide<T>> pack;
                for (int j = 0; j < Pack<Wide<T>>::LENGTH; j++)
                    pack.of[j] = lane.of[i + j];
                store_pack(to + i, pack);
            }
        } else {
            *to = lane.of[0];
        }
    }
};

DEVICE float root(float x) { return sqrtf(x); }
DEVICE double root(double x) { return sqrt(x); }
DEVICE float reciprocal_root(float x) { return 1.0f / sqrtf(x); }
DEVICE double reciprocal_root(double x) { return 1.0 / sqrt(x); }

// e^x as the type's arithmetic has it.
DEVICE float exponential(float x) { return expf(x); }
DEVICE double exponential(double x) { return exp(x); }
DEVICE float logarithm(float x) { return logf(x); }
DEVICE double logarithm(double x) { return log(x); }
DEVICE float hyperbolic_tangent(float x) { return tanhf(x); }
DEVICE double hyperbolic_tangent(double x) { return tanh(x); }
DEVICE float largest(float a, float b) { return fmaxf(a, b); }
DEVICE double largest(double a, double b) { return fmax(a, b); }
DEVICE float minus_infinity(float) { return -INFINITY; }
DEVICE double minus_infinity(double) { return -INFINITY; }
DEVICE float not_a_number(float) { return NAN; }
DEVICE double not_a_number(double) { return NAN; }

// The sum of `value` over a warp, the same bits in each lane.
template <typename T> DEVICE T sum_over_warp(T value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    return value;
}

template <typename T> DEVICE T largest_over_warp(T value) {
    for (int distance = WARP / 2; distance > 0; distance /= 2)
        value = largest(value, __shfl_xor_sync(0xffffffffu, value, distance));
    return value;
}

// The largest `value` of a block's threads, the same in each; see sum_over_block. A kernel calls it once: there is no barrier behind it
// that would let it write `of_warp` again.
template <typename T> DEVICE T largest_over_block(T value) {
    SHARED(T, of_warp, MOST_WARPS);
    value = largest_over_warp(value);
    if (threadIdx.x % WARP == 0)
        of_warp[threadIdx.x / WARP] = value;
    __syncthreads();
    for (unsigned warp = 0; warp < blockDim.x / WARP; warp++)
        value = largest(value, of_warp[warp]);
    return value;
}

// The sum of `value` over the threads of a block, the same bits in each: lanes by shuffles, then warps in their order.
// blockDim.x is a multiple of the warp, and the block has one dimension.
template <typename T> DEVICE T sum_over_block(T value) {
    SHARED(T, of_warp, MOST_WARPS);
    value = sum_over_warp(value);
    if (threadIdx.x % WARP == 0)
        of_warp[threadIdx.x / WARP] = value;
    __syncthreads();
    T sum = 0;
    for (unsigned warp = 0; warp < blockDim.x / WARP; warp++)
        sum += of_warp[warp];
    // The next sum writes `of_warp` again.
    __syncthreads();
    return sum;
}
