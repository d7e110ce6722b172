// What tensor_cores.cuh has, one kernel each, with what every lane gets.
#include "../../src/cuda/tensor_cores.cuh"

// a [32 lanes, 4 registers], b [32, 2], sums [32, 4]
KERNEL(32, probe_mma, (const unsigned *a, const unsigned *b, float *sums)) {
    unsigned lane = threadIdx.x, of_a[4];
    float of_lane[4];
    for (int i = 0; i < 4; i++) {
        of_a[i] = a[lane * 4 + i];
        of_lane[i] = sums[lane * 4 + i];
    }
    mma(of_lane, of_a, b[lane * 2], b[lane * 2 + 1]);
    for (int i = 0; i < 4; i++)
        sums[lane * 4 + i] = of_lane[i];
}

// rows [32, 8], the rows of four matrices; into [2, 32 lanes, 4 registers], as they are and transposed. Lane i's row is put
// `distance` elements, or half as many, after lane i − 1's.
KERNEL(32, probe_load_matrices, (const bf16 *rows, unsigned *into, Index distance)) {
    SHARED(bf16, tile, 32 * 16);
    unsigned lane = threadIdx.x;
    store_pack(tile + lane * 16, load_pack(rows + lane * 8));
    __syncwarp();
    unsigned registers[4];
    load_matrices<false>(registers, tile + lane * distance);
    for (int i = 0; i < 4; i++)
        into[lane * 4 + i] = registers[i];
    load_matrices<true>(registers, tile + lane * distance);
    for (int i = 0; i < 4; i++)
        into[(32 + lane) * 4 + i] = registers[i];
}

// from, to [64, 8]: pack i is copied by thread i, (i + 1) % 9 elements of it, and written back by thread 63 − i.
KERNEL(64, probe_copies, (const bf16 *from, bf16 *to, Index to_first, Index from_first)) {
    SHARED(bf16, packs, 64 * 8);
    unsigned i = threadIdx.x, other = 63 - i;
    copy_async(packs + i * 8 + to_first, from + i * 8 + from_first, (i + 1) % 9 * 2);
    commit_copies();
    WAIT_FOR_COPIES(0);
    __syncthreads();
    store_pack(to + other * 8, load_pack(packs + other * 8));
}

// from [3, 32, 8], to [2, 3, 32, 8]: three groups of copies, and what is there when one may be pending, then when none may be.
KERNEL(32, probe_groups, (const bf16 *from, bf16 *to)) {
    SHARED(bf16, packs, 3 * 32 * 8);
    for (int group = 0; group < 3; group++) {
        copy_async(packs + (group * 32 + threadIdx.x) * 8, from + (group * 32 + threadIdx.x) * 8, 16);
        commit_copies();
    }
    WAIT_FOR_COPIES(1);
    for (int group = 0; group < 3; group++)
        store_pack(to + (group * 32 + threadIdx.x) * 8, load_pack(packs + (group * 32 + threadIdx.x) * 8));
    WAIT_FOR_COPIES(0);
    for (int group = 0; group < 3; group++)
        store_pack(to + ((3 + group) * 32 + threadIdx.x) * 8, load_pack(packs + (group * 32 + threadIdx.x) * 8));
}

// A row of a matrix that is not in shared memory.
KERNEL(32, probe_load_elsewhere, (const bf16 *rows, unsigned *into)) {
    unsigned registers[4];
    load_matrices<false>(registers, rows + threadIdx.x * 8);
    into[threadIdx.x] = registers[0];
}
