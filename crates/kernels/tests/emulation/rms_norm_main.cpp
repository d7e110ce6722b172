// Runs rms_norm.cu in the emulation: one case from standard input, results to standard output, both as raw bytes.
//
// Input:  u64 element size (4 or 8), order (0 ascending, 1 descending), rows, hidden, grid, threads, accumulate, with_dw;
//         f64 eps; then x [rows, hidden], weight [hidden], dy [rows, hidden], dx [rows, hidden], dw [hidden].
// Output: y [rows, hidden], rstd [rows], dx [rows, hidden], dw [hidden].
//
// Every buffer the kernels write has a border on both sides; a border that was written to ends the run.
#include "rms_norm.cu"

#include <cstdint>

using emulation::Order;

static void read_bytes(void *to, size_t bytes) {
    if (bytes && std::fread(to, 1, bytes, stdin) != bytes) {
        std::fprintf(stderr, "the case is cut short\n");
        std::exit(2);
    }
}

template <typename T> struct Guarded {
    static constexpr size_t BORDER = 64;
    std::vector<T> memory;
    size_t length;

    // Poisoned: 0xFF bytes are a NaN.
    explicit Guarded(size_t n) : memory(n + 2 * BORDER), length(n) {
        std::memset(memory.data(), 0xff, memory.size() * sizeof(T));
    }
    T *data() { return memory.data() + BORDER; }
    void read() { read_bytes(data(), length * sizeof(T)); }
    void write() {
        for (size_t i = 0; i < BORDER * sizeof(T); i++) {
            auto *bytes = reinterpret_cast<const unsigned char *>(memory.data());
            if (bytes[i] != 0xff || bytes[memory.size() * sizeof(T) - 1 - i] != 0xff) {
                std::fprintf(stderr, "a kernel wrote outside of its buffer\n");
                std::exit(4);
            }
        }
        std::fwrite(data(), sizeof(T), length, stdout);
    }
};

struct Case {
    uint64_t element, order, rows, hidden, grid, threads, accumulate, with_dw;
    double eps;
};

template <typename T, typename Forward, typename Backward, typename SumParts>
static void run(const Case &c, Forward forward, Backward backward, SumParts sum_parts) {
    Guarded<T> x(c.rows * c.hidden), weight(c.hidden), dy(c.rows * c.hidden), dx(c.rows * c.hidden), dw(c.hidden);
    for (Guarded<T> *input : {&x, &weight, &dy, &dx, &dw})
        input->read();
    Guarded<T> y(c.rows * c.hidden), rstd(c.rows), partial(c.grid * c.hidden);
    Order order = c.order ? Order::Descending : Order::Ascending;
    Dim3 grid, threads;
    grid.x = unsigned(c.grid);
    threads.x = unsigned(c.threads);
    emulation::launch(grid, threads, 0, order, [&] {
        forward(x.data(), weight.data(), y.data(), rstd.data(), c.rows, c.hidden, c.eps);
    });
    emulation::launch(grid, threads, 0, order, [&] {
        backward(x.data(), weight.data(), rstd.data(), dy.data(), dx.data(), int(c.accumulate),
                 c.with_dw ? partial.data() : nullptr, c.rows, c.hidden);
    });
    if (c.with_dw) {
        Dim3 columns, tile;
        columns.x = unsigned((c.hidden + 31) / 32);
        tile.x = 32;
        tile.y = 8;
        emulation::launch(columns, tile, 32 * 8 * sizeof(T), order,
                          [&] { sum_parts(partial.data(), dw.data(), c.grid, c.hidden); });
    }
    y.write();
    rstd.write();
    dx.write();
    dw.write();
}

int main() {
    Case c;
    read_bytes(&c, sizeof c);
    if (c.element == 4)
        run<float>(c, rms_norm_forward_f32, rms_norm_backward_f32, rms_norm_sum_parts_f32);
    else
        run<double>(c, rms_norm_forward_f64, rms_norm_backward_f64, rms_norm_sum_parts_f64);
}
