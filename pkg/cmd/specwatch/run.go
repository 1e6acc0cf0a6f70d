package main

import (
	"cmp"
	"context"
	"errors"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/specwatch/specwatch/pkg/runner"
)

func newRun(db *database) *cobra.Command {
	var config runner.Config
	cmd := &cobra.Command{
		Use:   "run --spec SPEC [flags] -- COMMAND [ARGUMENT…]",
		Short: "Run a command as a spec, and pass its exit code on",
		Long: `Runs a command as a spec: writes when it started, that it is alive, and
whether it completed, failed or ran out of time. Passes standard input, output
and error, signals and the exit code on: 128 + the signal that ended the
command, 124 when it ran out of time, 126 or 127 when it could not be started.

The database never delays or ends the command: while it is away, events wait.
What cannot be written within --flush-timeout of the command's end is kept in
a file, and the next specwatch run or emit for the same database writes it.

The command finds ` + runner.EnvSession + ` and ` + runner.EnvSpec + ` in its environment, so
that "specwatch emit intervention_request" inside it needs no flags. It runs in
a process group of its own and cannot read from the terminal.`,
		Example: `  specwatch run --spec login --timeout 30m -- claude -p "implement specs/login.md"`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("name the command to run: specwatch run --spec SPEC -- COMMAND")
			}
			return nil
		},
	}
	flags := cmd.Flags()
	// What follows the command's name is the command's, with or without "--".
	flags.SetInterspersed(false)
	flags.StringVar(&config.Spec, "spec", "", "unit of work (required)")
	flags.StringVar(&config.Session, "session", "", "run of the loop (default: $"+runner.EnvSession+", else host name and time)")
	flags.DurationVar(&config.Timeout, "timeout", 0, "end the command after this `duration`, such as 30m (default: never)")
	flags.DurationVar(&config.Grace, "grace", runner.DefaultGrace, "`time` between asking the command to end and killing it")
	flags.DurationVar(&config.Heartbeat, "heartbeat", runner.DefaultHeartbeat, "`interval` of heartbeats")
	flags.DurationVar(&config.FlushTimeout, "flush-timeout", runner.DefaultFlushTimeout, "how `long` to wait for the database once the command has ended")
	cmd.RunE = does(func(cmd *cobra.Command, args []string) error {
		config.Command = args
		config.Session = cmp.Or(config.Session, os.Getenv(runner.EnvSession), defaultSession())
		if err := config.Validate(); err != nil {
			return wrongUse{err}
		}
		for name, d := range map[string]time.Duration{"timeout": config.Timeout, "grace": config.Grace, "heartbeat": config.Heartbeat, "flush-timeout": config.FlushTimeout} {
			mayBeZero := name == "timeout" || name == "flush-timeout"
			if d < 0 || d == 0 && !mayBeZero {
				return wrongUsef("--%s must be more than 0, not %s", name, d)
			}
		}
		// Not the context of a signal: signals are the command's.
		st, where, err := db.open(context.Background())
		if err != nil {
			return err
		}
		defer st.Close()
		signals := make(chan os.Signal, 8)
		signal.Notify(signals, passedOn()...)
		config.Signals = signals
		config.Stdin, config.Stdout, config.Stderr = cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr()
		config.Say = func(text string) { say(cmd.ErrOrStderr(), text) }
		config.Spool = spool(where, cmd.ErrOrStderr())
		// A nested emit writes to the same database, also when flags named it.
		config.Env = append(os.Environ(), envDatabaseURL+"="+where.URL, envSchema+"="+where.Schema)
		code, err := runner.Run(config, st)
		if err != nil {
			return wrongUse{err}
		}
		if code == 130 && term.IsTerminal(int(os.Stdin.Fd())) {
			// A shell ends its loop on Ctrl-C only if what it waits for died
			// of it, too.
			dieOfInterrupt()
		}
		if code != 0 {
			return exitCode(code)
		}
		return nil
	})
	return cmd
}

// defaultSession names this run of one command; a loop sets the variable once
// to have a session of its own.
func defaultSession() string {
	host, err := os.Hostname()
	if err != nil {
		host = "session"
	}
	return host + "-" + time.Now().Format("2006-01-02T15:04:05")
}
