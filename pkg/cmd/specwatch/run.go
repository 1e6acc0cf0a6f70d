package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/specwatch/specwatch/pkg/outbox"
	"github.com/specwatch/specwatch/pkg/runner"
)

func newRun(db *database) *cobra.Command {
	var config runner.Config
	cmd := &cobra.Command{
		Use:   "run --spec SPEC [flags] -- COMMAND [ARGUMENT…]",
		Short: "Run a command as a spec, and pass its exit code on",
		Long: `Runs a command as a spec. It writes an event when the command starts, heartbeats
while it runs, and an event when it completes, fails or runs out of time, with the
last lines of its output. Standard input, output and error, signals and the exit
code are passed on. The exit code is 128 plus the number of the signal that ended
the command, 124 when it ran out of time, 126 or 127 when it could not be started.

On a terminal, keys, colours, the size, Ctrl-C and Ctrl-Z reach the command, and
programs with a full screen work. Heartbeats contain how much the command printed,
how long it has printed nothing, and the CPU time that it used. A command that
prints a JSON result with an error has failed, whatever its exit code is.

The database never delays or ends the command. Each event is on disk before it is
sent. What cannot be written within --flush-timeout after the end of the command
stays on disk, and the next specwatch run, emit or flush for the same database
writes it.

The command has ` + runner.EnvSession + ` and ` + runner.EnvSpec + ` in its environment, so
"specwatch emit intervention_request" needs no flags in it. If it writes the end of
its spec itself, run writes no other end. While a request of its spec to a person
is open, --idle-timeout does not end the command. Without --session, what one
shell runs in one folder is one session, until an hour passes without a run.`,
		Example: `  specwatch run --spec login --timeout 30m -- claude -p "implement specs/login.md"`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("name the command to run: specwatch run --spec SPEC -- COMMAND")
			}
			return nil
		},
	}
	addRunFlags(cmd, db, &config)
	cmd.RunE = does(func(cmd *cobra.Command, args []string) error {
		return runSpec(cmd, db, config, args)
	})
	return cmd
}

func addRunFlags(cmd *cobra.Command, db *database, config *runner.Config) {
	flags := cmd.Flags()
	// What follows the command's name is the command's, with or without "--".
	flags.SetInterspersed(false)
	flags.StringVar(&config.Spec, "spec", "", "`name` of the spec, one unit of work (required)")
	flags.StringVar(&config.Session, "session", "", "`name` of the session, one run of the loop (default: $"+runner.EnvSession+", else one for this shell and folder)")
	completeNames(db, cmd)
	flags.DurationVar(&config.Timeout, "timeout", 0, "end the command after this `duration`, such as 30m (default: never)")
	flags.DurationVar(&config.IdleTimeout, "idle-timeout", 0, "end the command after this `duration` without output or CPU time (default: never)")
	flags.IntVar(&config.OutputLines, "output-lines", runner.DefaultOutputLines, "`number` of last lines of output to store with the end of the spec, secrets masked; 0: none; also set by $"+envOutputLines)
	flags.BoolVar(&config.NoStdin, "no-stdin", false, "give the command an empty standard input, so that it does not read that of the loop around it")
	flags.DurationVar(&config.Grace, "grace", runner.DefaultGrace, "`duration` between SIGTERM and SIGKILL when the command is ended")
	flags.DurationVar(&config.Heartbeat, "heartbeat", runner.DefaultHeartbeat, "`duration` between heartbeats")
	flags.DurationVar(&config.FlushTimeout, "flush-timeout", runner.DefaultFlushTimeout, "how long to wait for the database after the command has ended, a `duration`")
}

// runSpec runs the command that args are as the spec that the flags name.
func runSpec(cmd *cobra.Command, db *database, config runner.Config, args []string) error {
	config.Command = args
	if config.Spec == "" {
		return wrongUsef("name the spec with --spec, before the command: specwatch run --spec login -- %s", args[0])
	}
	named := cmp.Or(config.Session, variable(runner.EnvSession))
	session := loopSession{name: named}
	if named == "" {
		session = sessionOfLoop(time.Now())
	}
	config.Session = session.name
	if err := checkRun(cmd, &config); err != nil {
		return err
	}
	// No context of signals: signals go to the command.
	to, err := db.destination(context.Background(), cmd.ErrOrStderr())
	if err != nil {
		return err
	}
	defer to.close()
	if err := connectRun(cmd, &config, to); err != nil {
		return err
	}
	if named == "" {
		sayLoop(cmd.ErrOrStderr(), session.name)
		defer session.seen()
	}
	result, err := runner.Run(config, to)
	if err != nil {
		return wrongUse{err}
	}
	if result.Interrupted && onTerminal() {
		// A shell only ends its loop on Ctrl-C if the process that it waits
		// for died of SIGINT.
		dieOfInterrupt()
	}
	code := result.Code
	if code != 0 {
		return exitCode(code)
	}
	return nil
}

// checkRun checks the flags and reads the number of lines from the environment.
func checkRun(cmd *cobra.Command, config *runner.Config) error {
	if err := config.Validate(); err != nil {
		return wrongUse{err}
	}
	for name, d := range map[string]time.Duration{
		"timeout": config.Timeout, "idle-timeout": config.IdleTimeout, "grace": config.Grace,
		"heartbeat": config.Heartbeat, "flush-timeout": config.FlushTimeout,
	} {
		mayBeZero := strings.HasSuffix(name, "timeout")
		if d < 0 || d == 0 && !mayBeZero {
			return wrongUsef("--%s must be more than 0, not %s", name, d)
		}
	}
	if text := variable(envOutputLines); text != "" && !cmd.Flags().Changed("output-lines") {
		n, err := strconv.Atoi(text)
		if err != nil {
			return wrongUsef("%s is a number of lines, not %q", envOutputLines, text)
		}
		config.OutputLines = n
	}
	if config.OutputLines < 0 || config.OutputLines > maxOutputLines {
		return wrongUsef("--output-lines goes from 0 to %d, not %d", maxOutputLines, config.OutputLines)
	}
	return nil
}

// connectRun gives the command the streams and signals of this process, and the
// runner the destination and its folders.
func connectRun(cmd *cobra.Command, config *runner.Config, to *destination) error {
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, passedOn()...)
	config.Signals = signals
	config.Stdin, config.Stdout, config.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
	config.Say = func(text string) { say(cmd.ErrOrStderr(), text) }
	config.Box = to.box
	config.Waits = func(ctx context.Context, since time.Time) (bool, error) {
		return to.waits(ctx, config.Session, config.Spec, since)
	}
	if state, err := outbox.StateDir(); err == nil {
		config.Runs = filepath.Join(state, "runs")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	config.Guard = []string{self, "guard"}
	// A nested emit writes to the same destination, even if flags named it.
	config.Env = append(os.Environ(), to.env...)
	return nil
}

const (
	envOutputLines = "SPECWATCH_OUTPUT_LINES"
	maxOutputLines = 1_000
)

// onTerminal reports whether one of the streams is a terminal.
func onTerminal() bool {
	for _, file := range []*os.File{os.Stdin, os.Stdout, os.Stderr} {
		if term.IsTerminal(int(file.Fd())) {
			return true
		}
	}
	return false
}
