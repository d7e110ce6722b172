// Four consecutive elements of a flat buffer of any length, which a thread handles at once: in one access where the
// buffer begins on a multiple of four elements, PACKED, else one by one. Both forms give a thread the same elements.
#pragma once
#include "device.cuh"

#define QUAD 4

template <typename T> struct alignas(QUAD * sizeof(T)) Quad {
    T of[QUAD];
};

// Elements from `from` on, of which `there` are in the buffer; zeros for the others.
template <bool PACKED, typename T> DEVICE Quad<T> load_quad(const T *from, Index there) {
    if (PACKED && there >= QUAD) {
        CHECK_ACCESS(from, sizeof(Quad<T>), false);
        return *reinterpret_cast<const Quad<T> *>(from);
    }
    Quad<T> quad = {};
    for (int i = 0; i < QUAD; i++)
        if ((Index)i < there)
            quad.of[i] = from[i];
    return quad;
}

template <bool PACKED, typename T> DEVICE void store_quad(T *to, const Quad<T> &quad, Index there) {
    if (PACKED && there >= QUAD) {
        CHECK_ACCESS(to, sizeof quad, true);
        *reinterpret_cast<Quad<T> *>(to) = quad;
        return;
    }
    for (int i = 0; i < QUAD; i++)
        if ((Index)i < there)
            to[i] = quad.of[i];
}
