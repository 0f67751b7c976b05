"""Shape annotations of jaxtyping where it is installed, plain names elsewhere."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
else:
    try:
        from jaxtyping import Bool, Float, Int
    except ImportError:

        class _Annotation:
            """Accepts `[Tensor, "N T I"]` and is the first of the two."""

            def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
                return item[0]

        Bool = Float = Int = _Annotation

__all__ = ["Bool", "Float", "Int"]
