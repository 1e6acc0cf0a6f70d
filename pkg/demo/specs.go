package demo

import (
	"runtime"
	"time"
)

// spec is one unit of work of the demo's loop.
type spec struct {
	name     string
	shell    string // for sh
	windows  string // for cmd.exe
	session  string // what its session's name adds to that of the loop
	beside   bool   // the loop does not wait for it
	unnamed  bool   // `run` names the session itself
	gateway  bool   // its events go through the gateway
	terminal bool   // it has a terminal; not on Windows

	timeout, idleTimeout time.Duration
	pause                time.Duration // before the next
}

// specs are real commands that every machine has. In place of agents they print
// the lines of folder agents, which have the formats of real ones. One asks early,
// so that it can be seen while it waits; one hangs for as long as it takes to be
// noticed; one was started elsewhere and is not heard of again; of one, only the
// events are written that remain when its runner is killed.
var specs = []spec{
	{
		name: "look-around",
		shell: `uname -a; date; echo "this is $SPECWATCH_SPEC of $SPECWATCH_SESSION"
echo "on a terminal with $(stty size | tr ' ' x) characters"`,
		windows:  `ver & echo this is %SPECWATCH_SPEC% of %SPECWATCH_SESSION%`,
		terminal: true,
		pause:    2 * time.Second,
	},
	{
		name: "choose-a-database",
		shell: `for kind in spec_started session_heartbeat; do
  "$SPECWATCH_DEMO_EXECUTABLE" emit "$kind" --session "$SPECWATCH_SESSION-elsewhere" --spec upload-results >/dev/null
done
"$SPECWATCH_DEMO_EXECUTABLE" emit spec_started --spec resize-images >/dev/null
"$SPECWATCH_DEMO_EXECUTABLE" emit session_heartbeat --spec resize-images --data '{"silentSeconds":0}' >/dev/null
database=$("$SPECWATCH_DEMO_EXECUTABLE" ask "SQLite or PostgreSQL?" --option SQLite --option PostgreSQL --timeout 30m --default PostgreSQL) || exit 1
echo "going on with $database"`,
		windows: `"%SPECWATCH_DEMO_EXECUTABLE%" emit spec_started --session %SPECWATCH_SESSION%-elsewhere --spec upload-results & (echo {"kind":"spec_started","session":"%SPECWATCH_SESSION%","spec":"resize-images"}& echo {"kind":"session_heartbeat","session":"%SPECWATCH_SESSION%","spec":"resize-images","data":{"silentSeconds":0}}) | "%SPECWATCH_DEMO_EXECUTABLE%" emit --from - & "%SPECWATCH_DEMO_EXECUTABLE%" ask "SQLite or PostgreSQL?" --option SQLite --option PostgreSQL --timeout 30m --default PostgreSQL`,
		beside:  true,
		pause:   3 * time.Second,
	},
	{
		name:        "wait-for-a-lock",
		shell:       `echo "waiting for a lock"; sleep 3600`,
		windows:     `echo waiting for a lock & ping -n 3600 127.0.0.1 >nul`,
		session:     "-hangs",
		beside:      true,
		idleTimeout: 20 * time.Minute,
		pause:       time.Second,
	},
	{
		name: "write-tests",
		shell: `while read -r line; do printf '%s\n' "$line"; sleep 1; done <"$SPECWATCH_DEMO_DIR/codex.jsonl" | "$SPECWATCH_DEMO_EXECUTABLE" hook codex
"$SPECWATCH_DEMO_EXECUTABLE" emit demo.coverage --data '{"message":"81 % of the lines are covered"}' >/dev/null`,
		windows: `type "%SPECWATCH_DEMO_DIR%\codex.jsonl" | "%SPECWATCH_DEMO_EXECUTABLE%" hook codex`,
		pause:   2 * time.Second,
	},
	{
		name: "review-changes",
		shell: `while read -r line; do printf '%s\n' "$line" | "$SPECWATCH_DEMO_EXECUTABLE" hook claude-code; sleep 1; done <"$SPECWATCH_DEMO_DIR/claude.jsonl"
echo "no problem found"`,
		windows: `(for /f "usebackq delims=" %l in ("%SPECWATCH_DEMO_DIR%\claude.jsonl") do @echo %l| "%SPECWATCH_DEMO_EXECUTABLE%" hook claude-code) & echo no problem found`,
		pause:   2 * time.Second,
	},
	{
		name: "fix-login",
		shell: `sleep 2; echo "testing with API_KEY=hunter2hunter2"
printf '\033[31m1 of 12 tests fails\033[0m: login with an expired token\n' >&2; exit 1`,
		windows: `ping -n 3 127.0.0.1 >nul & echo testing with API_KEY=hunter2hunter2 & echo 1 of 12 tests fails 1>&2 & exit 1`,
		pause:   2 * time.Second,
	},
	{
		name: "check-links",
		shell: `sleep 1; echo "12 links"
"$SPECWATCH_DEMO_EXECUTABLE" emit spec_failed --data '{"reason":"2 links are dead"}' >/dev/null`,
		windows: `(echo {"kind":"spec_failed","session":"%SPECWATCH_SESSION%","spec":"%SPECWATCH_SPEC%","data":{"reason":"2 links are dead"}}) | "%SPECWATCH_DEMO_EXECUTABLE%" emit --from -`,
		pause:   2 * time.Second,
	},
	{
		name:    "write-docs",
		shell:   `sleep 2; echo "written without access to the database"`,
		windows: `ping -n 3 127.0.0.1 >nul & echo written without access to the database`,
		session: "-sandbox",
		gateway: true,
		pause:   2 * time.Second,
	},
	{
		name:    "migrate-data",
		shell:   `echo "this never ends"; while :; do sleep 1; done`,
		windows: `ping -t 127.0.0.1 >nul`,
		timeout: 5 * time.Second,
		pause:   3 * time.Second,
	},
	{
		name:        "compile-assets",
		shell:       `echo "compiling"; sleep 3600`,
		windows:     `echo compiling & ping -n 3600 127.0.0.1 >nul`,
		idleTimeout: 6 * time.Second,
		pause:       2 * time.Second,
	},
	{
		name:    "refactor-store",
		shell:   `sleep 1; echo '{"type":"result","is_error":true,"result":"You have hit your usage limit. Try again in 2 hours."}'`,
		windows: `echo {"type":"result","is_error":true,"result":"You have hit your usage limit. Try again in 2 hours."}`,
		pause:   2 * time.Second,
	},
	{
		name:    "write-changelog",
		shell:   `sleep 4; echo "written"`,
		windows: `ping -n 5 127.0.0.1 >nul & echo written`,
		unnamed: true,
		pause:   4 * time.Second,
	},
}

func (s spec) command() []string {
	if runtime.GOOS == "windows" {
		return []string{"cmd", "/c", s.windows}
	}
	return []string{"sh", "-c", s.shell}
}
