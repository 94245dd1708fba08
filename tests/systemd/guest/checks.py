"""Checks the units with the systemd that is this machine's first process: one line each, and a count at the end.

A check's name begins with the fault that it is about, if it is about one. Each begins and ends with all as it was
shipped, sockets that wait, and no daemon.
"""

import socket
import time
import traceback
import urllib.request
from collections.abc import Callable
from pathlib import Path

from attach import Attachment, Bundle, Knock, Refused
from machine import (
    BINARY,
    BUNDLE,
    CONFIG,
    GUEST,
    HANG_S,
    PAYLOAD,
    PLANNER,
    SERVICE,
    SETTINGS,
    SOCKETS,
    STRANGER,
    UNITS,
    Failed,
    Journal,
    active,
    as_user,
    client,
    expect,
    freeze,
    install,
    main_pid,
    name_of,
    reset,
    restarts,
    run,
    set_up,
    settled,
    shown,
    state,
    switch,
    synchromesh,
    systemctl,
    thread,
    until,
)

CHECKS: list[Callable[[], str | None]] = []
METRICS = urllib.request.Request(
    "http://127.0.0.1:9464/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
)


def check(function: Callable[[], str | None]) -> Callable[[], str | None]:
    """Adds a check. What it gives is shown beside its name."""
    CHECKS.append(function)
    return function


def serves_all_tasks() -> None:
    """Switches to each task, and compares all of its blocks with the bundle."""
    bundle = Bundle.read(BUNDLE)
    with as_user(PLANNER):
        attachment = Attachment(bundle, Knock())
    for task in (*bundle.names, bundle.names[0]):
        generation = switch(task)
        seen = attachment.check()
        expect(seen[:2] == (generation, task), f"after a switch to {task}, generation {generation}: {seen}")
    attachment.close()


def kill_daemon() -> float:
    """Kills it, waits until another one serves, and gives the seconds in between."""
    before, bundle = restarts(), Bundle.read(BUNDLE)
    systemctl("kill", "--signal=KILL", "--kill-whom=main", SERVICE)
    killed = time.monotonic()
    with as_user(PLANNER):
        until("the next daemon's first answer", lambda: attached(bundle))
    seconds = time.monotonic() - killed
    expect(restarts() == before + 1, f"started anew {restarts() - before} times")
    return seconds


def attached(bundle: Bundle) -> bool:
    """Whether a daemon lets this process attach."""
    try:
        Attachment(bundle, Knock()).close()
    except Refused:
        return False
    return True


@check
def units_verify_and_expose_little() -> str:
    """This systemd is later than that of the machine that makes the image: it knows all that the drop-ins say."""
    found = []
    profiles = {"host": [], "notify-reload": ["notify-reload.conf"], "gpu": ["gpu.conf", "notify-reload.conf"]}
    for profile, names in profiles.items():
        with set_up(files=[PAYLOAD / "systemd/drop-ins" / name for name in names]):
            said = run("systemd-analyze", "verify", "--man=no", UNITS / SERVICE, *(UNITS / unit for unit in SOCKETS))
            expect(not said, f"{profile}: {said}")
            limit = 10 if profile == "gpu" else 5
            text = run("systemd-analyze", "security", f"--threshold={limit}", "--no-pager", SERVICE)
            found.append(f"{profile} {text.split('for ' + SERVICE + ':')[1].split()[0]}")
    return "exposure: " + ", ".join(found)


@check
def sockets_are_there_before_the_daemon_and_for_those_who_may() -> None:
    """Files of the sockets have the rights that they are meant to have."""
    expect(state() == "inactive", f"the service is {state()}")
    for name in ("control", "attach"):
        path = Path(f"/run/synchromesh/{name}.sock")
        seen = path.stat()
        rights = f"{path.owner()}:{path.group()} {seen.st_mode & 0o777:o}"
        expect(path.is_socket() and rights == "root:synchromesh 660", f"{path}: {rights}")
    folder = Path("/run/synchromesh").stat()
    expect(folder.st_uid == 0 and not folder.st_mode & 0o022, "others can change the sockets' folder")


@check
def a_first_call_starts_the_daemon() -> str:
    """The sockets stay systemd's, which has them before and after."""
    before = Path("/run/synchromesh/control.sock").stat().st_ino
    journal = Journal()
    generation = switch("fog")
    expect(active() == ("fog", generation), f"{active()} is active")
    expect(Path("/run/synchromesh/control.sock").stat().st_ino == before, "the daemon has bound a socket of its own")
    expect(all(state(unit) == "active" for unit in SOCKETS), "a socket unit is not active")
    expect(state() == "active", f"the service is {state()}")
    until("the active task in the status text", lambda: "fog" in shown("StatusText"))
    serves_all_tasks()
    expect("panicked" not in journal.text(), "it panicked")
    return shown("StatusText")


@check
def a_first_attachment_starts_the_daemon() -> None:
    """And finds the initial task active."""
    with client() as process:
        process.until("a pass", lambda line: line.startswith("attached") and " city " in line)


@check
def only_those_who_may_are_served() -> None:
    """The sockets' rights keep users out of the group; the daemon keeps those out that are not among `peers`."""
    switch("fog")
    said = synchromesh("switch", "park", user=STRANGER, fails=True)
    expect("Permission denied" in said, f"a stranger is told: {said}")
    said = synchromesh("switch", "park", user=GUEST, fails=True)
    expect("peers" in said or "not allowed" in said or "may not" in said, f"a guest is told: {said}")
    for user in (GUEST, STRANGER):
        with as_user(user):
            expect(not attached(Bundle.read(PAYLOAD / "model.mesh")), f"{name_of(user)} is attached")
    expect(active()[0] == "fog", "somebody has switched")


@check
def p8_a_second_daemon_ends_and_the_first_one_serves_on() -> None:
    """Though its sockets are not in its own hands."""
    switch("fog")
    pid = main_pid()
    said = run("runuser", "-u", "synchromesh", "--", BINARY, "serve", "--config", CONFIG, fails=True)
    expect("control.sock" in said and "panicked" not in said, said)
    expect(main_pid() == pid and active()[0] == "fog", "the first daemon is another")


@check
def metrics_are_served_on_loopback() -> str:
    """To everybody on this machine, and they start the daemon too."""
    with urllib.request.urlopen(METRICS, timeout=30) as answer:
        text, kind = answer.read().decode(), answer.headers["Content-Type"]
    expect(text.endswith("# EOF\n"), f"no end: {text[-50:]!r}")
    expect("application/openmetrics-text" in kind, f"it is {kind}")
    names = {line.split("{")[0].split()[0] for line in text.splitlines() if not line.startswith("#")}
    expect(all(name.startswith(("synchromesh_", "process_")) for name in names), f"{sorted(names)[:5]}")
    expect(any(name.startswith("synchromesh_build_info") for name in names), "no build info")
    with socket.socket(socket.AF_UNIX) as there:
        there.connect("/run/synchromesh/metrics.sock")
        there.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        answer = there.makefile("rb").read()
    expect(answer.startswith(b"HTTP/1.0 200") and b"synchromesh_build_info" in answer, f"at the socket: {answer[:200]}")
    return f"{len(names)} names"


@check
def p1_killed_it_comes_back_with_its_sessions_and_clients_compute_on() -> str:
    """A client goes on with what it has mapped, and is served again."""
    seconds = []
    synchromesh("sessions", "open", "rear")
    with client() as process:
        for task, other in (("fog", "rain"), ("park", "city")):
            generation = switch(task)
            synchromesh("switch", other, "--session", "rear")
            process.until("the task", lambda line: line.startswith(f"attached {generation} {task} "))
            # It need not be alone for a whole pass: the next daemon may be faster.
            seconds.append(kill_daemon())
            process.until("the next daemon", lambda line: line.startswith("attached ") and f" {task} " in line)
            sessions = synchromesh("status")["models"][0]["sessions"]
            tasks = {session["session"]: session["task"] for session in sessions}
            expect(tasks == {"default": task, "rear": other}, f"sessions: {tasks}")
            expect(active()[1] >= generation, f"generation {active()[1]} after {generation}")
        generation = switch("rain")
        process.until("a switch", lambda line: line.startswith(f"attached {generation} rain "))
    return "serving again after " + " and ".join(f"{one:.2f} s" for one in seconds)


@check
def p1_clients_compute_on_while_there_is_no_daemon() -> None:
    """Though its sockets are still there, and take them in."""
    with set_up("Restart=no"), client() as process:
        generation = switch("fog")
        process.until("the task", lambda line: line.startswith(f"attached {generation} fog "))
        # With the sockets stopped, its knocking does not start another one.
        systemctl("stop", *SOCKETS)
        switched_off = state()
        expect(switched_off == "active", f"with its sockets stopped, the service is {switched_off}")
        systemctl("kill", "--signal=KILL", "--kill-whom=main", SERVICE)
        process.until("a pass alone", lambda line: line.startswith(f"alone {generation} fog "))
        process.until("another one", lambda line: line.startswith(f"alone {generation} fog "))
        systemctl("start", *SOCKETS)
        process.until("the next daemon", lambda line: line.startswith("attached "))


@check
def m17_a_restart_by_an_operator_keeps_sessions_and_pool() -> None:
    """By the descriptor store, which outlasts the process."""
    with client() as process:
        generation = switch("park")
        process.until("the task", lambda line: line.startswith(f"attached {generation} park "))
        stored = until("descriptors in the store", lambda: int(shown("NFileDescriptorStore")))
        expect(stored >= 3, f"{stored} descriptors are in the store")
        systemctl("restart", SERVICE)
        process.until("the next daemon", lambda line: line.startswith("attached ") and " park " in line)
        expect(active()[0] == "park", f"{active()} is active")
        expect(shown("Result") == "success", f"it ended with {shown('Result')}")


@check
def p3_a_hung_loop_is_ended_by_the_watchdog() -> str:
    """Only its main thread stands still."""
    return hang(lambda: [main_pid()])


@check
def p3_a_stopped_process_is_ended_by_the_watchdog() -> str:
    """It would hear no other signal."""
    with set_up("WatchdogSec=2") as journal:
        generation, pid = switch("fog"), main_pid()
        systemctl("kill", "--signal=STOP", "--kill-whom=main", SERVICE)
        return seen_again(journal, pid, generation)


@check
def p4_a_hung_reading_thread_is_ended_by_the_watchdog() -> str:
    """While the engine's loop goes on, and nobody waits for a read."""
    return hang(lambda: [thread("io_uring")])


@check
def p4_a_hung_verifying_thread_is_ended_by_the_watchdog() -> str:
    """While the engine's loop and the reads go on."""
    return hang(lambda: [thread("verify")])


def hang(threads: Callable[[], list[int]]) -> str:
    """Stops threads, and sees that another daemon comes."""
    with set_up("WatchdogSec=2") as journal:
        generation, pid = switch("fog"), main_pid()
        with freeze(*threads()) as frozen:
            until("the freeze", lambda: "frozen" in frozen.lines())
            return seen_again(journal, pid, generation)


def seen_again(journal: Journal, pid: int, generation: int) -> str:
    """Waits for the watchdog, and for the daemon that serves on."""
    begun = time.monotonic()
    until("another daemon", lambda: main_pid() not in (0, pid) and state() == "active")
    seconds = time.monotonic() - begun
    expect("Watchdog timeout" in journal.text(), "it was not the watchdog")
    expect(active()[0] == "fog" and active()[1] >= generation, f"{active()} is active")
    serves_all_tasks()
    return f"serving again after {seconds:.1f} s"


@check
def the_watchdog_leaves_alone_what_works() -> None:
    """Also while it has nothing to do, and while it has much to do."""
    with set_up("WatchdogSec=4"):
        switch("fog")
        pid, begun = main_pid(), time.monotonic()
        while time.monotonic() - begun < 6:
            switch("park")
            switch("rain")
        expect((main_pid(), restarts()) == (pid, 0), "it was started anew")


@check
def a_reload_changes_what_can_change() -> None:
    """Without another process, and without an end of what is served."""
    switch("fog")
    pid, journal = main_pid(), Journal()
    with client() as process:
        process.until("a pass", lambda line: line.startswith("attached"))
        CONFIG.write_text(SETTINGS + "log: {filter: debug}\nlimits: {attachments_per_process: 1}\n")
        systemctl("reload", SERVICE)
        journal.until("reloaded")
        bundle = Bundle.read(BUNDLE)
        with as_user(PLANNER):
            first = Attachment(bundle, Knock())
            expect(not attached(bundle), "the new limit does not hold")
        first.close()
        process.until("a pass", lambda line: line.startswith("attached"))
    expect(main_pid() == pid and active()[0] == "fog", "it is another daemon")
    until("an end of reloading", lambda: state() == "active")


@check
def c7_a_reload_of_what_cannot_be_read_is_refused_and_the_old_configuration_stays() -> None:
    """`systemctl reload` fails, and says so in the journal; a signal alone does no harm either."""
    switch("fog")
    pid, journal = main_pid(), Journal()
    CONFIG.write_text(SETTINGS + "limit: {connections: 1}\n")
    systemctl("reload", SERVICE, fails=True)
    journal.until("limit")
    journal = Journal()
    systemctl("kill", "--signal=HUP", "--kill-whom=main", SERVICE)
    journal.until("reload refused")
    expect(main_pid() == pid and active()[0] == "fog", "it is another daemon")
    until("an end of reloading", lambda: state() == "active")
    until("the refusal in the status text", lambda: "refused" in shown("StatusText"))
    serves_all_tasks()


@check
def c7_a_reload_of_what_cannot_change_is_refused_by_name() -> None:
    """All of it: what could have changed does not either."""
    switch("fog")
    pid, journal = main_pid(), Journal()
    CONFIG.write_text(SETTINGS.replace("2500KiB", "3MiB") + "limits: {attachments_per_process: 1}\n")
    systemctl("reload", SERVICE)
    journal.until("models")
    expect("restart" in journal.text(), "it is not said what to do")
    expect(main_pid() == pid and active()[0] == "fog", "it is another daemon")
    serves_all_tasks()


@check
def with_notify_reload_a_reload_returns_when_it_is_done() -> None:
    """As the drop-in for later versions of systemd promises."""
    with set_up(files=[PAYLOAD / "systemd/drop-ins/notify-reload.conf"]) as journal:
        switch("fog")
        pid = main_pid()
        for number in range(3):
            CONFIG.write_text(SETTINGS + f"limits: {{attachments_per_process: {number + 1}}}\n")
            systemctl("reload", SERVICE)
            text = journal.text()
            expect(text.count("reloaded") > number, f"reload {number} has returned before it was done")
        CONFIG.write_text("models: 7\n")
        systemctl("reload", SERVICE)
        expect("reload refused" in journal.text(), "the daemon has refused nothing")
        expect(main_pid() == pid and active()[0] == "fog", "it is another daemon")


@check
def p7_a_clean_stop_leaves_the_sockets_and_a_later_call_starts_it_again() -> None:
    """Nothing was killed, and nothing went wrong."""
    switch("fog")
    with client() as process:
        process.until("a pass", lambda line: line.startswith("attached"))
        systemctl("stop", SERVICE)
    ended = {name: shown(name) for name in ("Result", "ExecMainStatus", "ExecMainCode")}
    # The client may have knocked already, which starts the next one.
    expect(ended["Result"] == "success" and ended["ExecMainStatus"] == "0", f"it ended with {ended}")
    expect(all(state(unit) == "active" for unit in SOCKETS), "a socket unit is not active")
    expect(Path("/run/synchromesh/control.sock").is_socket(), "the socket is gone")
    switch("park")
    serves_all_tasks()


@check
def sockets_are_removed_with_their_units() -> None:
    """And come back with them."""
    systemctl("stop", *SOCKETS)
    left = [path.name for path in Path("/run/synchromesh").glob("*.sock")]
    expect(not left, f"left: {left}")


@check
def p5_a_crash_loop_ends_in_safe_mode_and_then_in_a_limit() -> str:
    """Which an operator can lift."""
    journal = Journal()
    switch("fog")
    modes = []
    for crash in range(5):
        modes.append("safe mode" in shown("StatusText"))
        pid = main_pid()
        systemctl("kill", "--signal=KILL", "--kill-whom=main", SERVICE)
        if crash < 4:
            until("the next daemon", lambda pid=pid: main_pid() not in (0, pid) and state() == "active")
            expect(active()[0] == "fog", f"{active()} is active after crash {crash}")
    until("the limit", lambda: state() == "failed")
    expect("Start request repeated too quickly" in journal.text(), "it was not the limit")
    expect(modes[-1] and not modes[0], f"safe mode by start: {modes}")
    systemctl("reset-failed", SERVICE, *SOCKETS)
    systemctl("start", *SOCKETS)
    switch("park")
    return f"safe mode by start: {modes}"


@check
def c3_a_configuration_that_cannot_be_used_is_not_tried_again() -> None:
    """What is wrong is in the journal."""
    with set_up(config="limit: {connections: 1}\n") as journal:
        systemctl("start", SERVICE, fails=True)
        expect((settled(), restarts()) == ("failed", 0), f"{state()} after {restarts()} restarts")
        expect(shown("ExecMainStatus") == "2", f"status {shown('ExecMainStatus')}")
        expect("limit" in journal.text(), "the key is not named")


@check
def p6_too_little_memory_is_told_and_does_not_loop() -> str:
    """The pool does not fit: the kernel, or the daemon itself, ends the start."""
    with set_up("MemoryMax=2M\nMemorySwapMax=0\nRestartSec=50ms") as journal:
        systemctl("start", SERVICE, fails=True)
        until("an end", lambda: state() == "failed")
        text = journal.text()
        told = [line for line in text.splitlines() if "memory" in line.lower() or "oom" in line.lower()]
        expect(told, f"nothing is said of memory: {text[-300:]}")
        expect(restarts() <= 5, f"{restarts()} restarts")
        expect("panicked" not in text, "it panicked")
        return told[-1]


@check
def p6_a_bound_as_advised_holds_all() -> str:
    """Pool, base, index, and 64 MiB more; the daemon is not the first to go when memory is short."""
    with set_up(f"MemoryMax={(3 + 64) << 20}\nMemorySwapMax=0"):
        serves_all_tasks()
        expect(shown("OOMScoreAdjust") == "-800", shown("OOMScoreAdjust"))
        expect(Path(f"/proc/{main_pid()}/oom_score_adj").read_text().strip() == "-800", "it is not set")
        return f"{int(shown('MemoryPeak')) >> 20} MiB at most"


@check
def p10_everything_runs_within_the_filter() -> str:
    """Here a call that the filter does not allow ends the process, so none is made."""
    return everything("SystemCallErrorNumber=kill", "", "io_uring")


@check
def p10_everything_runs_within_the_filter_on_threads_that_block() -> str:
    """The other way to read, as configured."""
    return everything("SystemCallErrorNumber=kill", "storage: {backend: preadv}\n", "preadv")


@check
def s16_where_io_uring_is_refused_threads_read() -> str:
    """And it is said why."""
    return everything("SystemCallFilter=~io_uring_setup io_uring_enter io_uring_register", "", "preadv")


def everything(settings: str, config: str, backend: str) -> str:
    """Takes every way through the daemon that there is."""
    with set_up(settings, config) as journal:
        serves_all_tasks()
        storage = synchromesh("status")["models"][0]["storage"]
        expect(storage["backend"] == backend, f"it reads by {storage}")
        synchromesh("prepare", "park")
        synchromesh("hint", "rain=0.9@100")
        synchromesh("sessions", "open", "rear")
        synchromesh("switch", "rain", "--session", "rear")
        synchromesh("sessions", "close", "rear")
        out = Path(f"/tmp/export.{time.monotonic_ns()}")
        synchromesh("export", "--out", str(out))
        with client() as process:
            process.until("a pass", lambda line: line.startswith("attached"))
        systemctl("reload", SERVICE)
        journal.until("reloaded")
        scraped()
        serves_all_tasks()
        expect(restarts() == 0, f"{restarts()} restarts")
        systemctl("restart", SERVICE)
        serves_all_tasks()
        systemctl("stop", SERVICE)
        expect(shown("Result") == "success", f"it ended with {shown('Result')}")
        killed = [line for line in journal.text("-k").splitlines() if "type=1326" in line]
        expect(not killed, f"the filter has ended something: {killed[:2]}")
        odd = [line for line in journal.text().splitlines() if "not permitted" in line or "EPERM" in line]
        if "io_uring" not in settings:
            expect(not odd, f"something was refused: {odd[:2]}")
        return storage["fallback_reason"] or storage["backend"]


def scraped() -> None:
    """Reads the metrics."""
    with urllib.request.urlopen(METRICS, timeout=30) as answer:
        expect(answer.status == 200, f"metrics: {answer.status}")


@check
def p10_what_the_daemon_has_no_business_with_is_refused() -> str:
    """A program in its place tries it."""
    with set_up(f"ExecStartPre=/usr/bin/python3 -B {PAYLOAD}/guest/probe.py") as journal:
        systemctl("start", SERVICE)
        lines = [line for line in journal.text().splitlines() if line.startswith("probe:")]
        return f"{len(lines) - 1} attempts; {lines[-1]}"


@check
def p11_few_descriptors_are_told() -> str:
    """Not even its sockets and the bundle fit."""
    return refusal("LimitNOFILE=16", ("LimitNOFILE",))


@check
def p11_little_locked_memory_is_told() -> str:
    """The pool does not fit."""
    return refusal("LimitMEMLOCK=64K", ("LimitMEMLOCK",))


@check
def p11_no_threads_are_told() -> str:
    """By the user's limit."""
    return refusal("LimitNPROC=1", ("thread", "Resource temporarily unavailable"))


@check
def p11_few_tasks_are_told() -> str:
    """By the service's own limit."""
    return refusal("TasksMax=2", ("thread", "Resource temporarily unavailable"))


def refusal(settings: str, words: tuple[str, ...]) -> str:
    """Starts the service where it cannot run, and sees that it says so."""
    with set_up(f"{settings}\nRestart=no") as journal:
        systemctl("start", SERVICE, fails=True)
        expect(settled() == "failed", f"it is {state()}")
        text = journal.text()
        ended = f"{shown('Result')} {shown('ExecMainStatus')}"
        expect(shown("Result") == "exit-code" and "panicked" not in text, f"it ended with {ended}: {text[-300:]}")
        told = [line for line in text.splitlines() if any(word in line for word in words)]
        expect(told, f"nothing is said of {words}: {text[-300:]}")
        return told[0]


@check
def p12_no_gpu_and_no_sys() -> None:
    """This machine has no GPU."""
    expect(not list(Path("/dev").glob("nvidia*")), "there is a GPU")
    with set_up("InaccessiblePaths=/sys"):
        serves_all_tasks()


@check
def p12_no_proc() -> None:
    """Not even its own."""
    with set_up("InaccessiblePaths=/proc\nInaccessiblePaths=/sys"):
        serves_all_tasks()


@check
def p12_the_gpu_profile_serves_where_there_is_no_gpu() -> None:
    """Devices that are not there are passed over."""
    with set_up(files=[PAYLOAD / "systemd/drop-ins/gpu.conf"]):
        serves_all_tasks()


@check
def p14_hogs_beside_it_do_not_keep_it_from_switching() -> str:
    """More of them than there are processors, and some that read the disk without end."""
    with set_up(config="prefetch: {enabled: false}\n"):
        switch("fog")
        hogs = ["while :; do :; done"] * 4
        hogs += ["while :; do dd if=/dev/vda of=/dev/null bs=1M count=256 iflag=direct 2>/dev/null; done"] * 2
        names = [f"hog{number}.service" for number in range(len(hogs))]
        try:
            for name, hog in zip(names, hogs):
                run("systemd-run", "--quiet", "--slice=hogs.slice", f"--unit={name}", "sh", "-c", hog)
            answers = [
                synchromesh("switch", task, "--timeout-ms", "30000")
                for _ in range(3)
                for task in ("city", "park", "rain", "fog")
            ]
        finally:
            systemctl("kill", "--signal=KILL", "hogs.slice")
            systemctl("reset-failed")
        expect(any(int(answer["read"]["blocks"]) for answer in answers), "nothing was read")
        took = sorted(int(answer["timing"]["total_us"]) / 1000 for answer in answers)
        return f"switches took {took[len(took) // 2]:.1f} ms in the middle, {took[-1]:.1f} ms at most"


@check
def p13_a_journal_that_stands_still_does_not_keep_it_from_switching() -> str:
    """Its lines are dropped when there is no more room for them, and that is said."""
    with set_up(config="log: {filter: trace}\n") as journal:
        switch("fog")
        systemctl("kill", "--signal=STOP", "--kill-whom=main", "systemd-journald.service")
        try:
            turns = 0
            while not (lost := dropped_lines()):
                expect(turns < 2000, "no line is dropped")
                switch("park")
                switch("rain")
                turns += 1
        finally:
            systemctl("kill", "--signal=CONT", "--kill-whom=main", "systemd-journald.service")
        journal.until("lines are lost")
        return f"{lost} lines were dropped by then, after {2 * turns} switches"


def dropped_lines() -> int:
    """What the metrics say of lines that could not be written."""
    with urllib.request.urlopen(METRICS, timeout=30) as answer:
        text = answer.read().decode()
    found = [line for line in text.splitlines() if line.startswith("synchromesh_log_lines_dropped_total ")]
    return int(float(found[0].split()[1]))


@check
def p16_its_memory_is_not_for_others() -> None:
    """Not for another user, and not for another process of its own user."""
    switch("fog")
    pid = main_pid()
    for user in ("planner", "synchromesh"):
        run("runuser", "-u", user, "--", "head", "-c", "1", f"/proc/{pid}/mem", fails=True)
        said = run("runuser", "-u", user, "--", "python3", "-B", PAYLOAD / "guest/freeze.py", str(pid), fails=True)
        expect("Operation not permitted" in said, f"{user}: {said}")


def perform(function: Callable[[], str | None]) -> bool:
    """Runs one check, and tells."""
    name = function.__name__.replace("_", " ")
    begun, journal = time.monotonic(), Journal()
    try:
        detail = function()
    except Exception as error:
        why = str(error) or type(error).__name__
        print(f"FAIL {name}: {why}", flush=True)
        # Where it was, and what was logged, goes to the console, which is kept.
        where = "" if isinstance(error, Failed) else traceback.format_exc()
        Path("/dev/console").write_text(f"\n=== {name}: {why}\n{where}{journal.text()}\n===\n")
        return False
    finally:
        reset()
    print(f"ok   {name} ({time.monotonic() - begun:.0f} s)" + (f": {detail}" if detail else ""), flush=True)
    return True


def part() -> tuple[int, int]:
    """Which of the machines that share the checks this is, and how many they are."""
    words = Path("/proc/cmdline").read_text().split()
    number, of = next(word for word in words if word.startswith("part=")).removeprefix("part=").split("/")
    return int(number), int(of)


def main() -> None:
    """Runs this machine's part of the checks that are asked for, or of all."""
    install()
    reset()
    wanted = (PAYLOAD / "wanted").read_text().split()
    chosen = [one for one in CHECKS if not wanted or any(word in one.__name__ for word in wanted)]
    number, of = part()
    results = [perform(function) for function in chosen[number::of]]
    print(f"{results.count(True)} passed, {results.count(False)} failed", flush=True)


if __name__ == "__main__":
    main()
