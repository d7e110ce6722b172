// Rotates pairs of elements of the heads of q and k in one launch, in place: (a, b) -> (a cos - b sin, b cos + a sin), with the angle
// of the row's position and the pair's frequency. The pair of element j is j + half, where half is half of a head. cos and sin are
// tables [known, half]; backward is the rotation by the negated angle. A row whose position is not below `known` becomes NaN.
//
// Threads along x have the pairs of a head, along y heads, q's first, along z rows. A thread loads its cosines and sines once and
// turns several heads by them. Where half is whole packs of 16 bytes, PACKED, it moves those; else single elements.
#include "../cuda/device.cuh"

#define THREADS 256

template <typename T, bool PACKED>
DEVICE void rotate(T *q, T *k, const unsigned *positions, const Wide<T> *cosines, const Wide<T> *sines, Index known, Index rows,
                   Index q_heads, Index k_heads, Index half, int backward) {
    typedef Lane<T, PACKED> L;
    Index head_dim = 2 * half, step = blockDim.y * head_dim;
    for (Index row = (Index)blockIdx.x * blockDim.z + threadIdx.z; row < rows; row += (Index)gridDim.x * blockDim.z) {
        Index position = positions[row];
        for (Index pair = threadIdx.x * L::WIDTH; pair < half; pair += blockDim.x * L::WIDTH) {
            L c, s;
            if (position < known) {
                c = L::load_wide(cosines + position * half + pair);
                s = L::load_wide(sines + position * half + pair);
            } else {
                for (int i = 0; i < L::WIDTH; i++)
                    c.of[i] = s.of[i] = not_a_number(Wide<T>());
            }
            if (backward)
                for (int i = 0; i < L::WIDTH; i++)
                    s.of[i] = -s.of[i];
            // Where head 0 would be in q, and in k, whose first head is q_heads here.
            Index in_q = row * q_heads * head_dim + pair, in_k = (row * k_heads - q_heads) * head_dim + pair;
            Index offset = threadIdx.y * head_dim;
            for (Index head = threadIdx.y; head < q_heads + k_heads; head += blockDim.y, offset += step) {
                T *x = head < q_heads ? q + (in_q + offset) : k + (in_k + offset);
                L a = L::load(x), b = L::load(x + half);
                for (int i = 0; i < L::WIDTH; i++) {
                    Wide<T> first = a.of[i];
                    a.of[i] = first * c.of[i] - b.of[i] * s.of[i];
                    b.of[i] = b.of[i] * c.of[i] + first * s.of[i];
                }
                L::store(x, a);
                L::store(x + half, b);
            }
        }
    }
}

#define FOR_LAYOUT(T, name, PACKED)                                                                                               \
    KERNEL(THREADS, rope_##name, (T *q, T *k, const unsigned *positions, const Wide<T> *cosines, const Wide<T> *sines, Index known, \
                                  Index rows, Index q_heads, Index k_heads, Index half, int backward)) {                          \
        rotate<T, PACKED>(q, k, positions, cosines, sines, known, rows, q_heads, k_heads, half, backward);                        \
    }

#define FOR_TYPE(T, name)             \
    FOR_LAYOUT(T, name, false)        \
    FOR_LAYOUT(T, packed_##name, true)

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
FOR_TYPE(bf16, bf16)
