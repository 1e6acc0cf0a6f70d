package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes.
const (
	exitFailed   = 1
	exitWrongUse = 2
)

// wrongUse is an error of the person who typed the command.
type wrongUse struct{ error }

func (w wrongUse) Unwrap() error { return w.error }

func wrongUsef(format string, args ...any) error { return wrongUse{fmt.Errorf(format, args...)} }

// failure is an error of anything else. What cobra itself finds wrong is
// neither, and counts as wrong use.
type failure struct{ error }

func (f failure) Unwrap() error { return f.error }

// exitCode is that of a command that was run; it has nothing to say.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("exit code %d", int(c)) }

// does makes an error of the work itself a failure.
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

func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "specwatch",
		Short: "Shows what an unattended coding-agent loop does, from its events in PostgreSQL",
		Long: `Shows what an unattended coding-agent loop does, from its events in PostgreSQL.

The database is named by --database-url or SPECWATCH_DATABASE_URL, such as
postgres://user@host:5432/database?sslmode=require. Its password belongs into
that variable, into PGPASSWORD or into a password file, never on the command
line, where every user of the machine can read it.

Exit codes: 0 done, 1 failed, 2 wrong use.`,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return wrongUse{errors.New("name a command; specwatch --help lists them")}
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	var db database
	root.PersistentFlags().StringVar(&db.url, "database-url", "", "PostgreSQL, without a password (default: $"+envDatabaseURL+")")
	root.PersistentFlags().StringVar(&db.schema, "schema", "", "schema that holds the events table (default: $"+envSchema+", else the connection's)")
	root.AddCommand(
		newMigrate(&db), newServe(&db), newEmit(&db), newRun(&db),
		newTail(&db), newPrune(&db), newDemo(&db),
	)
	return root
}

// untilSignal returns a context that ends when the process is asked to end.
func untilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	return signal.NotifyContext(ctx, os.Interrupt, syscall.SIGTERM)
}

// say tells the person one line.
func say(w io.Writer, text string) {
	fmt.Fprintf(w, "specwatch: %s\n", oneLine(text))
}

var (
	lineBreaks = regexp.MustCompile(`\s*[\r\n]+\s*`)
	secrets    = regexp.MustCompile(`(://[^/\s@:]*:)[^/\s]*@|((?i:password)\s*=\s*)('[^']*'|[^\s&'"]+)`)
)

// oneLine makes one line of any text, and masks what looks like a password: a
// person may have put one where no password belongs, and an error quotes it.
func oneLine(text string) string {
	text = lineBreaks.ReplaceAllString(strings.TrimSpace(text), " ")
	return secrets.ReplaceAllStringFunc(text, func(found string) string {
		if strings.HasPrefix(found, "://") {
			return found[:strings.Index(found[3:], ":")+4] + "…@"
		}
		return found[:strings.Index(found, "=")+1] + "…"
	})
}
