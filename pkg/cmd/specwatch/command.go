package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitFailed   = 1
	exitWrongUse = 2
)

// wrongUse is an error in the command line.
type wrongUse struct{ error }

func (w wrongUse) Unwrap() error { return w.error }

func wrongUsef(format string, args ...any) error { return wrongUse{fmt.Errorf(format, args...)} }

// failure is any other error. Errors of cobra are neither, and count as wrong use.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// exitCode is the exit code of a command that was run. Nothing is printed for it.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// does makes a failure of an error that the command itself returned.
func does(work func(*cobra.Command, []string) error) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		err := work(cmd, args)
		var wrong wrongUse
		var code exitCode
		if err == nil || errors.As(err, &wrong) || errors.As(err, &code) {
			return err
		}
		return failure{err}
	}
}

func execute(args []string, stdin io.Reader, stdout, stderr io.Writer) int {
	root := newRoot()
	root.SetArgs(args)
	root.SetIn(stdin)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.Execute()
	var code exitCode
	var failed failure
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	}
	say(stderr, err.Error())
	if errors.As(err, &failed) {
		return exitFailed
	}
	return exitWrongUse
}

// printers are the commands that only print. Like other programs, they end when
// nobody reads what they print.
var printers = []string{"tail", "status", "version"}

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "specwatch",
		Short: "Shows what an unattended coding-agent loop does, from its events in PostgreSQL",
		Long: `Shows what an unattended coding-agent loop does, from its events in PostgreSQL.

Start with: specwatch demo. For your own loop: specwatch migrate, specwatch serve,
and specwatch run --spec SPEC -- COMMAND for each spec.

--database-url or SPECWATCH_DATABASE_URL names the database, such as
postgres://user@host:5432/database?sslmode=require. Put its password into that
variable, into PGPASSWORD or into a password file, not on the command line, where
every user of the machine can read it. Programs that cannot reach the database
write and read through a gateway: --gateway or SPECWATCH_GATEWAY, with
SPECWATCH_WRITE_TOKEN and SPECWATCH_READ_TOKEN if the gateway has tokens.

Complete commands, kinds and sessions with Tab: specwatch completion --help.

Exit codes: 0 done, 1 failed, 2 wrong use.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          knownCommand,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return wrongUse{errors.New("name a command; specwatch --help lists them")}
		},
	}
	root.SetFlagErrorFunc(explainFlag)
	// The others do their work to the end, also when the reader of their messages
	// is gone, as the tee of "specwatch serve 2>&1 | tee log" may be.
	root.PersistentPreRun = func(cmd *cobra.Command, _ []string) {
		if !slices.Contains(printers, cmd.Name()) {
			keepWriting()
		}
	}
	var db database
	root.PersistentFlags().StringVar(&db.url, "database-url", "", "`URL` of the PostgreSQL database, without a password (default: $"+envDatabaseURL+")")
	root.PersistentFlags().StringVar(&db.schema, "schema", "", "`name` of the schema with the events table (default: $"+envSchema+", else found by the search_path)")
	root.PersistentFlags().StringVar(&db.gateway, "gateway", "", "`URL` of a gateway to use instead of the database, for run, emit, ask, hook, tail, status and flush (default: $"+envGateway+")")
	root.AddCommand(
		newMigrate(&db), newMirror(&db), newServe(&db), newEmit(&db), newRun(&db), newAsk(&db), newHook(&db),
		newTail(&db), newStatus(&db), newFlush(&db), newPrune(&db), newDemo(&db), newGuard(&db), newVersion(),
	)
	for _, cmd := range root.Commands() {
		if cmd.ValidArgsFunction == nil && cmd.ValidArgs == nil && cmd.Name() != "run" { // whose arguments are a command with its files
			cmd.ValidArgsFunction = cobra.NoFileCompletions
		}
	}
	return root
}

// untilSignal returns a context that ends with SIGINT or SIGTERM.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// say prints one line for the user.
func say(w io.Writer, text string) {
	fmt.Fprintf(w, "specwatch: %s\n", oneLine(text))
}

var (
	lineBreaks = regexp.MustCompile(`\s*[\r\n]+\s*`)
	secrets    = regexp.MustCompile(`(://[^/\s@:]*:)[^/\s]*@|((?i:password)\s*=\s*)('[^']*'|[^\s&'"]+)`)
)

// oneLine joins the lines of a text and masks passwords: an error may quote one that
// the user put in the wrong place.
func oneLine(text string) string {
	text = lineBreaks.ReplaceAllString(strings.TrimSpace(text), " ")
	return secrets.ReplaceAllStringFunc(text, func(found string) string {
		if strings.HasPrefix(found, "://") {
			return found[:strings.Index(found[3:], ":")+4] + "…@"
		}
		return found[:strings.Index(found, "=")+1] + "…"
	})
}
