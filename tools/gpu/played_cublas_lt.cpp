// A cuBLASLt that is not there, for tools/gpu/rehearse.sh: of its functions those that candlewick calls, by plain loops on the host, as its
// documentation has them: columns one after the other, D = alpha * op(A) * op(B) + beta * C. What does not fit together is refused.
#include <dlfcn.h>

#include <cstdint>
#include <cstring>
#include <vector>

namespace {

// Numbers of types, attributes and results are those of cublasLt.h and library_types.h.
enum Status { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Type { F32 = 0, F64 = 1, BF16 = 14 };

// What was queued before, with the played driver that the process has loaded, is done before a product is made.
void reach(void *stream) {
    static void *driver = dlopen("libcuda.so.1", RTLD_LAZY | RTLD_NOLOAD);
    if (driver)
        reinterpret_cast<int (*)(void *)>(dlsym(driver, "cuStreamSynchronize"))(stream);
}

struct Description {
    Type scale;
    int32_t transposed[2];
};
struct Layout {
    Type type;
    uint64_t rows, cols;
    int64_t stride;
};
struct Algorithm {
    uint64_t data[8];
};
struct Found {
    Algorithm algorithm;
    size_t workspace;
    Status state;
    float waves;
    int reserved[4];
};
int handle_of_all, preference_of_all;

size_t width(Type type) { return type == F64 ? 8 : type == F32 ? 4 : 2; }

double read(const void *from, const Layout &layout, uint64_t row, uint64_t col) {
    const char *at = static_cast<const char *>(from) + (row + col * uint64_t(layout.stride)) * width(layout.type);
    if (layout.type == F64) {
        double value;
        return memcpy(&value, at, 8), value;
    }
    uint32_t bits = 0;
    memcpy(layout.type == F32 ? reinterpret_cast<char *>(&bits) : reinterpret_cast<char *>(&bits) + 2, at, width(layout.type));
    float value;
    return memcpy(&value, &bits, 4), value;
}

void write(void *to, const Layout &layout, uint64_t row, uint64_t col, double value) {
    char *at = static_cast<char *>(to) + (row + col * uint64_t(layout.stride)) * width(layout.type);
    if (layout.type == F64) {
        memcpy(at, &value, 8);
        return;
    }
    float single = float(value);
    uint32_t bits;
    memcpy(&bits, &single, 4);
    if (layout.type == BF16)
        bits += 0x7fff + (bits >> 16 & 1);
    memcpy(at, layout.type == F32 ? reinterpret_cast<char *>(&bits) : reinterpret_cast<char *>(&bits) + 2, width(layout.type));
}

bool is_sound(const Layout &layout) { return layout.stride >= int64_t(layout.rows) && layout.rows > 0 && layout.cols > 0; }

} // namespace

#define LIBRARY(name, parameters) extern "C" __attribute__((visibility("default"))) Status name parameters

LIBRARY(cublasLtCreate, (void **into)) { return *into = &handle_of_all, SUCCESS; }
LIBRARY(cublasLtDestroy, (void *)) { return SUCCESS; }
LIBRARY(cublasLtMatmulDescCreate, (Description **into, int, Type scale)) { return *into = new Description{scale, {0, 0}}, SUCCESS; }
LIBRARY(cublasLtMatmulDescDestroy, (Description *description)) { return delete description, SUCCESS; }
LIBRARY(cublasLtMatmulDescSetAttribute, (Description *description, int attribute, const void *value, size_t bytes)) {
    // CUBLASLT_MATMUL_DESC_TRANSA and _TRANSB.
    if ((attribute != 3 && attribute != 4) || bytes != 4)
        return INVALID_VALUE;
    return memcpy(&description->transposed[attribute - 3], value, 4), SUCCESS;
}
LIBRARY(cublasLtMatrixLayoutCreate, (Layout **into, Type type, uint64_t rows, uint64_t cols, int64_t stride)) {
    return *into = new Layout{type, rows, cols, stride}, SUCCESS;
}
LIBRARY(cublasLtMatrixLayoutDestroy, (Layout *layout)) { return delete layout, SUCCESS; }
LIBRARY(cublasLtMatmulPreferenceCreate, (void **into)) { return *into = &preference_of_all, SUCCESS; }
LIBRARY(cublasLtMatmulPreferenceDestroy, (void *)) { return SUCCESS; }
LIBRARY(cublasLtMatmulPreferenceSetAttribute, (void *, int, const void *, size_t)) { return SUCCESS; }
LIBRARY(cublasLtMatmulAlgoGetHeuristic, (void *, Description *, Layout *, Layout *, Layout *, Layout *, void *, int wanted, Found *found, int *count)) {
    if (wanted < 1)
        return INVALID_VALUE;
    memset(found, 0, sizeof *found);
    return *count = 1, SUCCESS;
}

LIBRARY(cublasLtMatmul, (void *, Description *description, const void *alpha, const void *a, Layout *of_a, const void *b, Layout *of_b,
                         const void *beta, const void *c, Layout *of_c, void *d, Layout *of_d, const Algorithm *, void *, size_t, void *stream)) {
    reach(stream);
    bool left = description->transposed[0] == 1, right = description->transposed[1] == 1;
    uint64_t m = left ? of_a->cols : of_a->rows, k = left ? of_a->rows : of_a->cols, n = right ? of_b->rows : of_b->cols;
    if (!is_sound(*of_a) || !is_sound(*of_b) || !is_sound(*of_c) || !is_sound(*of_d) || (right ? of_b->cols : of_b->rows) != k ||
        of_c->rows != m || of_c->cols != n || of_d->rows != m || of_d->cols != n || of_a->type != of_b->type)
        return INVALID_VALUE;
    double scale, keep;
    if (description->scale == F64) {
        memcpy(&scale, alpha, 8);
        memcpy(&keep, beta, 8);
    } else {
        float scales[2];
        memcpy(&scales[0], alpha, 4);
        memcpy(&scales[1], beta, 4);
        scale = scales[0], keep = scales[1];
    }
    // Rows of op(A) and columns of op(B), each one after the other.
    std::vector<double> rows(m * k), cols(n * k);
    for (uint64_t i = 0; i < k; i++) {
        for (uint64_t row = 0; row < m; row++)
            rows[row * k + i] = left ? read(a, *of_a, i, row) : read(a, *of_a, row, i);
        for (uint64_t col = 0; col < n; col++)
            cols[col * k + i] = right ? read(b, *of_b, col, i) : read(b, *of_b, i, col);
    }
    for (uint64_t col = 0; col < n; col++)
        for (uint64_t row = 0; row < m; row++) {
            double sum = 0;
            for (uint64_t i = 0; i < k; i++)
                sum += rows[row * k + i] * cols[col * k + i];
            write(d, *of_d, row, col, scale * sum + (keep != 0 ? keep * read(c, *of_c, row, col) : 0));
        }
    return SUCCESS;
}
