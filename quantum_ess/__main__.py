"""Entry point. A plain `activate` goes straight to the stop path; all else to the command line."""

import os
import sys

from quantum_ess.errors import EssError


def main() -> None:
    """Run the command line and exit with its status."""
    argv = sys.argv[1:]
    try:
        if argv == ["guard"]:
            from quantum_ess import guard

            guard.main()
        status = _stop(argv) if argv[:1] == ["activate"] else None
        if status is None:
            from quantum_ess import cli

            status = cli.main(argv)
    except EssError as error:
        for other in (error, *getattr(error, "others", ())):
            _complain(str(other))
        if error.hint:
            print(f"  {error.hint}", file=sys.stderr)
        status = error.status
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # so that the flush at exit is quiet too
        status = 1
    except KeyboardInterrupt:
        _complain("interrupted; see quantum-ess status")
        status = 130
    except Exception as error:  # a defect, but an operator gets a sentence all the same
        if argv[:1] == ["activate"]:
            raise  # the launcher stops without us
        where = error.__traceback__
        while where and where.tb_next:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_filename}:{where.tb_lineno}" if where else "?"
        _complain(
            f"internal error: {type(error).__name__}: {error} ({place})\n"
            "  see quantum-ess status; trading stops by: touch /run/quantum/ESS_ON"
        )
        status = 1
    sys.exit(status)


def _stop(argv: list[str]) -> int | None:
    """Stop without an argument parser; None if the arguments are not the plain ones."""
    reason, trigger = "", "command"
    rest = iter(argv[1:])
    for word in rest:
        key, equals, value = word.partition("=")
        if key not in ("--reason", "--trigger"):
            return None
        if not equals:
            value = next(rest, "")
            if not value or value.startswith("-"):
                return None
        if key == "--reason":
            reason = value
        elif value in ("command", "unit", "flag"):
            trigger = value
        else:
            return None
    if os.geteuid() != 0:
        return None
    from quantum_ess import activate
    from quantum_ess.group import TRADING

    request = activate.Request(trigger, reason)
    outcome = activate.activate(TRADING, request)
    from quantum_ess import cli

    return cli.report(TRADING, request, outcome)


def _complain(text: str) -> None:
    print(f"quantum-ess: {text}", file=sys.stderr)


if __name__ == "__main__":
    main()
