package demo

import (
	"runtime"
	"time"
)

// spec is one unit of work of the demo's loop.
type spec struct {
	name    string
	shell   string // for sh
	windows string // for cmd.exe
	timeout time.Duration
	asks    bool          // waits for a person
	pause   time.Duration // before the next
}

// specs are real commands that every machine has. One asks for an
// intervention early, so that it can be seen while it waits.
var specs = []spec{
	{
		name:    "look-around",
		shell:   `uname -a; date; echo "this is $SPECWATCH_SPEC of $SPECWATCH_SESSION"`,
		windows: `ver & echo this is %SPECWATCH_SPEC% of %SPECWATCH_SESSION%`,
		pause:   2 * time.Second,
	},
	{
		name: "choose-a-database",
		shell: `rm -f "$SPECWATCH_DEMO_ANSWER"
"$SPECWATCH_DEMO_EXECUTABLE" emit intervention_request --data '{"question":"SQLite or PostgreSQL? Create the file named answer in the directory of the demo to go on."}' || exit 1
n=0
until [ -e "$SPECWATCH_DEMO_ANSWER" ] || [ $n -ge 60 ]; do sleep 1; n=$((n+1)); done
[ -e "$SPECWATCH_DEMO_ANSWER" ] && echo "thank you" || echo "nobody answered; taking PostgreSQL"`,
		windows: `"%SPECWATCH_DEMO_EXECUTABLE%" emit intervention_request && ping -n 40 127.0.0.1 >nul`,
		asks:    true,
		pause:   3 * time.Second,
	},
	{
		name:    "write-tests",
		shell:   `for test in parse print round-trip; do echo "ok $test"; sleep 1; done`,
		windows: `echo ok parse & ping -n 4 127.0.0.1 >nul & echo ok print`,
		pause:   2 * time.Second,
	},
	{
		name:    "fix-login",
		shell:   `sleep 2; echo "1 of 12 tests fails: login with an expired token" >&2; exit 1`,
		windows: `ping -n 3 127.0.0.1 >nul & echo 1 of 12 tests fails 1>&2 & exit 1`,
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
		name:    "write-changelog",
		shell:   `sleep 4; echo "written"`,
		windows: `ping -n 5 127.0.0.1 >nul & echo written`,
		pause:   4 * time.Second,
	},
}

func (s spec) command() []string {
	if runtime.GOOS == "windows" {
		return []string{"cmd", "/c", s.windows}
	}
	return []string{"sh", "-c", s.shell}
}
