import pytest
import torch
from fastgradnorm_kernels import _validate

EVEN = ((3, 3), (1, 1), (1, 1), (1, 1))


def _meta(*shape, dtype=torch.float32):
    return torch.empty(shape, dtype=dtype, device="meta")


@pytest.mark.parametrize(
    "check, arguments, error, message",
    [
        ("check_precision", ("half",), ValueError, "`input_precision` must be one of ieee, tf32"),
        ("check_head", (_meta(3), _meta(3)), ValueError, r"`logits` must be \[N, C\]"),
        ("check_head", (_meta(3, 0), _meta(3)), ValueError, "with C > 0"),
        ("check_head", (_meta(3, 2), _meta(2)), ValueError, r"`q` must be \[3\]"),
        (
            "check_head",
            (_meta(3, 2, dtype=torch.float64), _meta(3)),
            TypeError,
            "`logits` must be float32, float16 or bfloat16",
        ),
        ("check_head", (_meta(3, 2), torch.ones(3)), ValueError, "`q` must be on meta"),
        ("check_linear_head", (_meta(3), _meta(2, 3), None), ValueError, "`features` must be"),
        (
            "check_linear_head",
            (_meta(1, 3), _meta(2, 4), None),
            ValueError,
            r"`weight` must be \[C, 3\]",
        ),
        (
            "check_linear_head",
            (_meta(1, 3), _meta(2, 3), _meta(3)),
            ValueError,
            r"`bias` must be \[2\]",
        ),
        (
            "check_linear_head",
            (_meta(1, 3), _meta(2, 3, dtype=torch.float16), None),
            TypeError,
            "`weight` must be torch.float32",
        ),
        ("check_pair", (_meta(2, 3), _meta(2, 1, 3, 4)), ValueError, "`activations` must be"),
        (
            "check_pair",
            (_meta(2, 3, 4), _meta(2, 1, 5, 4)),
            ValueError,
            r"`grad_outputs` must be \[2, K, 3, O\]",
        ),
        (
            "check_pair",
            (_meta(2, 3, 4), _meta(2, 1, 3, 4, dtype=torch.float16)),
            TypeError,
            "`grad_outputs` must be torch.float32",
        ),
        (
            "check_pair",
            (_meta(2, 2**16, 2**15), _meta(2, 1, 2**16, 4)),
            ValueError,
            "`activations` must have fewer than 2³¹ elements a sample",
        ),
        ("check_affine", (_meta(2, 3), _meta(2, 1, 3)), ValueError, "`normalized` must be"),
        (
            "check_affine",
            (_meta(2, 3, 4), _meta(2, 1, 3, 5)),
            ValueError,
            r"`grad_outputs` must be \[2, K, 3, 4\]",
        ),
        ("check_embedding", (_meta(2, 3), _meta(2, 1, 3, 4)), ValueError, "`ids` must be"),
        (
            "check_embedding",
            (_meta(2, 3, dtype=torch.int64), _meta(2, 1, 4, 4)),
            ValueError,
            r"`grad_outputs` must be \[2, K, 3, O\]",
        ),
        ("check_conv", (_meta(2, 3), _meta(2, 1, 3), EVEN, 1), ValueError, "`x` must be"),
        (
            "check_conv",
            (_meta(2, 3, 5, 5), _meta(1, 1, 4, 5, 5), EVEN, 1),
            ValueError,
            r"`grad_outputs` must be \[2, K, O, \*\]",
        ),
        (
            "check_conv",
            (_meta(2, 3, 5, 5), _meta(2, 1, 4, 5, 5), ((3, 3), (1,), (1, 1), (1, 1)), 1),
            ValueError,
            "`stride` must have 2 numbers",
        ),
        (
            "check_conv",
            (_meta(2, 3, 5, 5), _meta(2, 1, 4, 5, 5), EVEN, 2),
            ValueError,
            "`groups` must divide 3 input and 4 output channels",
        ),
        (
            "check_conv",
            (_meta(2, 3, 5, 5), _meta(2, 1, 4, 5, 4), EVEN, 1),
            ValueError,
            r"must be \[5, 5\] in space",
        ),
        (
            "check_conv",
            (_meta(2, 2**11, 2**10, 2**10), _meta(2, 1, 1, 2**10, 2**10), EVEN, 1),
            ValueError,
            "fewer than 2³¹ elements a sample",
        ),
        (
            "check_conv",
            (_meta(2, 3, 5, 5), _meta(2, 1, 4, 5, 5, dtype=torch.float16), EVEN, 1),
            TypeError,
            "`grad_outputs` must be torch.float32, as `x`",
        ),
    ],
)
def test_messages(check, arguments, error, message):
    with pytest.raises(error, match=message):
        getattr(_validate, check)(*arguments)


def test_dense():
    x = torch.randn(4, 3, 2)
    assert _validate.dense(x, 2) is x
    assert _validate.dense(x[::2], 2).data_ptr() == x.data_ptr()
    assert _validate.dense(x[:, :1], 2).data_ptr() == x.data_ptr()
    copied = _validate.dense(x[..., :1], 2)
    assert copied.is_contiguous()
    assert torch.equal(copied, x[..., :1])
