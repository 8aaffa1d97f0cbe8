import errno

from cafs.cli.failure import exit_code, one_line
from cafs.errors import DeadlineError, IntegrityError, StateError, UsageError, leading_error


def test_each_kind_of_error_has_its_exit_code() -> None:
    errors = [
        DeadlineError(),
        StateError(),
        OSError(),
        ValueError(),
        UsageError(),
        IntegrityError(),
        KeyboardInterrupt(),
    ]
    assert [exit_code(e) for e in errors] == [1, 1, 1, 1, 2, 3, 130]


def test_of_many_errors_the_worst_leads() -> None:
    damage = IntegrityError("bad")
    group = ExceptionGroup("x", [ValueError(), ExceptionGroup("y", [UsageError("u"), damage])])
    assert leading_error(group) is damage
    stop = KeyboardInterrupt()
    assert leading_error(BaseExceptionGroup("x", [damage, stop])) is stop
    assert isinstance(leading_error(ExceptionGroup("x", [ValueError(), DeadlineError()])), DeadlineError)


def test_an_error_is_said_in_one_printable_line() -> None:
    assert one_line(UsageError("a\nb\x1b[31m \udcff\u2028c")) == "a b [31m  c"
    assert one_line(IntegrityError()) == "IntegrityError"
    assert (
        one_line(OSError(errno.ENOENT, "No such file or directory", "/x")) == "No such file or directory: /x"
    )
    assert "cache_dir" in one_line(OSError(errno.ENOSPC, "No space left on device"))
    assert one_line(ValueError("odd")).startswith("internal error, please report it")
