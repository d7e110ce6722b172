// Rotates pairs of elements of the heads of q and k in one launch, in place: (a, b) -> (a cos - b sin, b cos + a sin), with the angle
// of the row's position and the pair's frequency. The pair of element j is j + half, where half is half of the rotated part of a
// head. cos and sin are tables [positions, half]; backward is the rotation by the negated angle.
//
// A block has rows along y; along x a thread has one pair of one head, q's heads first.
#include "../cuda/device.cuh"

#define THREADS 256

template <typename T>
DEVICE void rotate(T *q, T *k, const unsigned *positions, const Wide<T> *cosines, const Wide<T> *sines, Index rows, Index q_heads,
                   Index k_heads, Index q_stride, Index k_stride, Index head_dim, Index half, int backward) {
    Index at = (Index)blockIdx.x * blockDim.x + threadIdx.x;
    Index head = at / half, pair = at % half;
    if (head >= q_heads + k_heads)
        return;
    for (Index row = blockIdx.y; row < rows; row += gridDim.y) {
        Index entry = (Index)positions[row] * half + pair;
        Wide<T> c = cosines[entry], s = backward ? -sines[entry] : sines[entry];
        T *x = head < q_heads ? q + row * q_stride + head * head_dim : k + row * k_stride + (head - q_heads) * head_dim;
        Wide<T> a = widen(x[pair]), b = widen(x[pair + half]);
        x[pair] = narrow<T>(a * c - b * s);
        x[pair + half] = narrow<T>(b * c + a * s);
    }
}

#define FOR_TYPE(T, name)                                                                                                             \
    KERNEL(THREADS, rope_##name, (T *q, T *k, const unsigned *positions, const Wide<T> *cosines, const Wide<T> *sines, Index rows,    \
                                  Index q_heads, Index k_heads, Index q_stride, Index k_stride, Index head_dim, Index half,           \
                                  int backward)) {                                                                                    \
        rotate<T>(q, k, positions, cosines, sines, rows, q_heads, k_heads, q_stride, k_stride, head_dim, half, backward);             \
    }

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
FOR_TYPE(bf16, bf16)
