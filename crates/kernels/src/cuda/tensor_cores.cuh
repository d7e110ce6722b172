// Products of small matrices of bf16 on tensor cores (compute capability 8.0 and later), and the copies that feed them.
//
// A warp holds such a matrix in registers, a part of it in each lane: `mma` multiplies, `load_matrices` fills registers from
// shared memory. `copy_async` fills shared memory beside the arithmetic: what it copies is there for the thread that asked
// for it once it has waited for its group, and for other threads after a barrier that follows.
// Where each element lies is said in NVIDIA's "PTX ISA" under mma.m16n8k16, ldmatrix and cp.async.
#pragma once
#include "device.cuh"

#ifdef __CUDACC__
DEVICE unsigned shared_address(const void *pointer) { return (unsigned)__cvta_generic_to_shared(pointer); }
#endif

// Before a loop that numbers registers: they have no address.
#ifdef __CUDACC__
#define UNROLL _Pragma("unroll")
#else
#define UNROLL
#endif

// sums += a·b for a [16, 16], b [16, 8] and sums [16, 8]. With g = lane / 4 and t = lane % 4, register i of a holds
// elements 2t and 2t + 1 of row g + 8·(i % 2) from column 8·(i / 2) on; register i of b those of column g from row 8·i on;
// sums[i] is the element of row g + 8·(i / 2) and column 2t + i % 2.
DEVICE void mma(float (&sums)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#ifdef __CUDACC__
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 "
                 "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
                 : "+f"(sums[0]), "+f"(sums[1]), "+f"(sums[2]), "+f"(sums[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    emulation::mma(sums, a, b0, b1, EMULATION_SITE);
#endif
}

// Two elements of a register, each rounded to the nearest, the first in its lower half.
DEVICE unsigned narrow_pair(float low, float high) {
#ifdef __CUDACC__
    unsigned pair;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
    return pair;
#else
    return unsigned(narrow<bf16>(low).bits) | unsigned(narrow<bf16>(high).bits) << 16;
#endif
}

// Four matrices [8, 8] from shared memory: lane 8i + r says where row r of matrix i begins, on 16 bytes. With g = lane / 4 and
// t = lane % 4, into[i] holds the elements 2t and 2t + 1 of row g of matrix i, or of its transpose.
template <bool TRANSPOSED> DEVICE void load_matrices(unsigned (&into)[4], const bf16 *row) {
#ifndef __CUDACC__
    emulation::load_matrices(into, row, TRANSPOSED, EMULATION_SITE);
#else
    if constexpr (TRANSPOSED)
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(into[0]), "=r"(into[1]), "=r"(into[2]), "=r"(into[3])
                     : "r"(shared_address(row))
                     : "memory");
    else
        asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                     : "=r"(into[0]), "=r"(into[1]), "=r"(into[2]), "=r"(into[3])
                     : "r"(shared_address(row))
                     : "memory");
#endif
}

// Begins to copy a pack of 16 bytes to shared memory, both sides aligned: the first `bytes` of it, and zeros after them. With
// no bytes, `from` is not read.
DEVICE void copy_async(bf16 *to, const bf16 *from, unsigned bytes) {
#ifdef __CUDACC__
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
#else
    emulation::copy_async(to, from, bytes, 16, EMULATION_SITE);
#endif
}

// The same with half a pack, 8 bytes.
DEVICE void copy_half_async(void *to, const void *from, unsigned bytes) {
#ifdef __CUDACC__
    asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(to)),
                 "l"(__cvta_generic_to_global(from)), "r"(bytes)
                 : "memory");
#else
    emulation::copy_async(to, from, bytes, 8, EMULATION_SITE);
#endif
}

// Makes a group of the copies that this thread has begun since its last one.
DEVICE void commit_copies() {
#ifdef __CUDACC__
    asm volatile("cp.async.commit_group;" ::: "memory");
#else
    emulation::commit_copies();
#endif
}

// WAIT_FOR_COPIES(pending) waits until at most `pending`, a constant, of this thread's groups have not landed: the latest.
#ifdef __CUDACC__
#define WAIT_FOR_COPIES(pending) asm volatile("cp.async.wait_group %0;" ::"n"(pending) : "memory")
#else
#define WAIT_FOR_COPIES(pending) emulation::wait_for_copies(pending, EMULATION_SITE)
#endif
