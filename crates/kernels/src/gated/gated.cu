// y = activation(gate) * up and its gradients, element by element. The activation is computed again in the backward pass.
#include "../cuda/device.cuh"

#define THREADS 256

// x * sigmoid(x)
struct Silu {
    template <typename W> DEVICE W value(W x) { return x / (W(1) + exponential(-x)); }
    template <typename W> DEVICE W slope(W x) {
        W s = W(1) / (W(1) + exponential(-x));
        return s * (W(1) + x * (W(1) - s));
    }
};

// GELU by tanh: x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 * x^3)))
struct GeluTanh {
    template <typename W> DEVICE W inner(W x) { return W(0.79788456080286535588) * (x + W(0.044715) * x * x * x); }
    template <typename W> DEVICE W value(W x) { return W(0.5) * x * (W(1) + hyperbolic_tangent(inner(x))); }
    template <typename W> DEVICE W slope(W x) {
        W t = hyperbolic_tangent(inner(x));
        W d_inner = W(0.79788456080286535588) * (W(1) + W(3 * 0.044715) * x * x);
        return W(0.5) * (W(1) + t) + W(0.5) * x * (W(1) - t * t) * d_inner;
    }
};

template <typename T, typename Activation, bool PACKED> DEVICE void forward(const T *gate, const T *up, T *y, Index len) {
    typedef Lane<T, PACKED> L;
    Index at = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * L::WIDTH;
    if (at >= len)
        return;
    L g = L::load(gate + at), u = L::load(up + at);
    for (int i = 0; i < L::WIDTH; i++)
        u.of[i] *= Activation::value(g.of[i]);
    L::store(y + at, u);
}

// dgate and dup may be gate and up: every thread reads its elements before it writes them.
template <typename T, typename Activation, bool PACKED>
DEVICE void backward(const T *gate, const T *up, const T *dy, T *dgate, T *dup, Index len) {
    typedef Lane<T, PACKED> L;
    Index at = ((Index)blockIdx.x * blockDim.x + threadIdx.x) * L::WIDTH;
    if (at >= len)
        return;
    L g = L::load(gate + at), u = L::load(up + at), d = L::load(dy + at), dg;
    for (int i = 0; i < L::WIDTH; i++) {
        dg.of[i] = d.of[i] * u.of[i] * Activation::slope(g.of[i]);
        d.of[i] *= Activation::value(g.of[i]);
    }
    L::store(dgate + at, dg);
    L::store(dup + at, d);
}

#define FOR_LAYOUT(T, op, name, Activation, PACKED)                                                                     \
    KERNEL(THREADS, op##_forward_##name, (const T *gate, const T *up, T *y, Index len)) {                               \
        forward<T, Activation, PACKED>(gate, up, y, len);                                                               \
    }                                                                                                                   \
    KERNEL(THREADS, op##_backward_##name, (const T *gate, const T *up, const T *dy, T *dgate, T *dup, Index len)) {     \
        backward<T, Activation, PACKED>(gate, up, dy, dgate, dup, len);                                                 \
    }

#define FOR_TYPE(T, name)                                \
    FOR_LAYOUT(T, swiglu, name, Silu, false)             \
    FOR_LAYOUT(T, swiglu, packed_##name, Silu, true)     \
    FOR_LAYOUT(T, geglu, name, GeluTanh, false)          \
    FOR_LAYOUT(T, geglu, packed_##name, GeluTanh, true)

FOR_TYPE(float, f32)
FOR_TYPE(double, f64)
FOR_TYPE(bf16, bf16)
