// Rounding to bf16 up or down by chance: the same numbers and the same bits as src/stochastic.rs, which says how and
// why.
#pragma once
#include "device.cuh"

#include <string.h>

struct Words {
    unsigned of[4];
};

// Philox4x32-10 (Salmon, Moraes, Dror and Shaw, 2011) of the counter [block, step] under the key `seed`: the numbers
// of the elements from 4 * block to 4 * block + 3.
DEVICE Words draw(Index seed, Index step, Index block) {
    unsigned c0 = (unsigned)block, c1 = (unsigned)(block >> 32), c2 = (unsigned)step, c3 = (unsigned)(step >> 32);
    unsigned k0 = (unsigned)seed, k1 = (unsigned)(seed >> 32);
    for (int round = 0; round < 10; round++) {
        Index first = (Index)0xd2511f53u * c0, second = (Index)0xcd9e8d57u * c2;
        c0 = (unsigned)(second >> 32) ^ c1 ^ k0;
        c1 = (unsigned)second;
        c2 = (unsigned)(first >> 32) ^ c3 ^ k1;
        c3 = (unsigned)first;
        k0 += 0x9e3779b9u;
        k1 += 0xbb67ae85u;
    }
    return Words{{c0, c1, c2, c3}};
}

DEVICE bf16 round_stochastically(float x, unsigned word) {
    unsigned bits;
    memcpy(&bits, &x, sizeof bits);
    // Without a branch, behind which compilers would put the drawing of `word`, once for each element.
    unsigned sign = bits & 0x80000000u, size = bits & 0x7fffffffu, moved = size + (word >> 16);
    // What is finite stays so.
    moved = moved < 0x7f800000u ? moved & 0xffff0000u : 0x7f7f0000u;
    bits = sign | (size < 0x7f800000u ? moved : size);
    memcpy(&x, &bits, sizeof x);
    // Exact by now.
    return __float2bfloat16_rn(x);
}
