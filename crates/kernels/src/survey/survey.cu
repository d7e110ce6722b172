// What is to be known of every tensor of a flat buffer. A block goes through SPAN elements from tensor to tensor, and each of its warps
// adds what it has found to the tensor's flags: bits, of which no order of additions changes one.
#include "../cuda/quad.cuh"

#define THREADS 256
#define SPAN ((Index)32 * THREADS * QUAD)
#define NOT_ZERO 1u
#define NOT_FINITE 2u

template <typename W> DEVICE unsigned flags_of(W x) {
    bool is_finite = x > minus_infinity(x) && x < -minus_infinity(x);
    return (x != 0 ? NOT_ZERO : 0) | (is_finite ? 0 : NOT_FINITE);
}

// The first tensor that ends beyond element i, or `count`.
DEVICE Index tensor_of(const Index *ends, Index count, Index i) {
    Index low = 0, high = count;
    while (low < high) {
        Index middle = (low + high) / 2;
        if (ends[middle] > i)
            high = middle;
        else
            low = middle + 1;
    }
    return low;
}

// flags begin as zeros.
template <typename T, bool PACKED>
DEVICE void survey(const T *x, const Index *ends, unsigned *flags, Index count, Index len) {
    Index begin = blockIdx.x * SPAN, last = len - begin < SPAN ? len : begin + SPAN;
    for (Index tensor = tensor_of(ends, count, begin); tensor < count && begin < last; tensor++) {
        Index end = ends[tensor] < last ? ends[tensor] : last;
        unsigned found = 0;
        for (Index i = begin / QUAD * QUAD + threadIdx.x * QUAD; i < end; i += blockDim.x * QUAD) {
            Quad<T> quad = load_quad<PACKED>(x + i, len - i);
            for (int e = 0; e < QUAD; e++)
                if (i + e >= begin && i + e < end)
                    found |= flags_of(widen(quad.of[e]));
        }
        for (int distance = WARP / 2; distance > 0; distance /= 2)
            found |= __shfl_xor_sync(0xffffffffu, found, distance);
        if (found && threadIdx.x % WARP == 0)
            atomicOr(flags + tensor, found);
        // Where ends do not ascend nothing is read twice.
        begin = end > begin ? end : begin;
    }
}

#define FOR_LAYOUT(T, name, PACKED)                                                                                 \
    KERNEL(THREADS, survey_##name, (const T *x, const Index *ends, unsigned *flags, Index count, Index len)) {      \
        survey<T, PACKED>(x, ends, flags, count, len);                                                              \
    }

#define FOR_TYPE(T, name)              \
    FOR_LAYOUT(T, name, false)         \
    FOR_LAYOUT(T, packed_##name, true)

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
FOR_TYPE(bf16, bf16)
