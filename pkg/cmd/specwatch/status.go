package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/state"
)

func newStatus(db *database) *cobra.Command {
	var format outputFormat
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Print what runs, what waits for a person and how specs ended",
		Long: `Prints what runs, what waits for a person and how specs ended in the last seven
days, by the clock of the database. The page and Grafana show the same.`,
		Args: cobra.NoArgs,
	}
	format.addTo(cmd)
	cmd.RunE = does(func(cmd *cobra.Command, _ []string) error {
		ctx, cancel := untilSignal(cmd.Context())
		defer cancel()
		from, err := db.destination(ctx, cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		defer from.close()
		st, err := from.state(ctx)
		if err != nil {
			return err
		}
		if format == outputJSON {
			return printJSON(cmd, st)
		}
		return printState(cmd.OutOrStdout(), st)
	})
	return cmd
}

// printState prints the state as text.
func printState(w io.Writer, st state.State) error {
	ago := func(t time.Time) string { return max(0, st.At.Sub(t)).Round(time.Second).String() + " ago" }
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(st.Sessions) == 0 {
		fmt.Fprintln(table, "No session wrote an event in the last seven days.")
	}
	for _, s := range st.Sessions {
		fmt.Fprintf(table, "%s\t%q\tlast event %s\t%d running, %d completed, %d failed, %d timed out", s.Status, s.Session, ago(s.LastSeen), s.Specs.Open, s.Specs.Completed, s.Specs.Failed, s.Specs.TimedOut)
		if s.Specs.Limited > 0 {
			fmt.Fprintf(table, ", %d ended by a usage limit", s.Specs.Limited)
		}
		if s.Limited {
			fmt.Fprintf(table, ", %s", limitNote(s.LimitedUntil, st.At))
		}
		fmt.Fprintln(table)
	}
	for _, o := range st.Running {
		fmt.Fprintf(table, "spec runs\t%q of %q\tstarted %s", o.Spec, o.Session, ago(o.Since))
		switch {
		case o.Limited:
			fmt.Fprintf(table, "\t%s", limitNote(o.LimitedUntil, st.At))
		case o.LastWork != nil && st.At.Sub(*o.LastWork) >= state.Idle:
			fmt.Fprintf(table, "\tno output, CPU time or event for %d minutes", int(st.At.Sub(*o.LastWork).Minutes()))
		}
		fmt.Fprintln(table)
	}
	for _, o := range st.Silent {
		// Its heartbeats may have ended while those of its session go on.
		label := "spec is silent"
		if slices.ContainsFunc(st.Sessions, func(s state.Session) bool { return s.Session == o.Session && s.Status != state.Running }) {
			label = "session is silent"
		}
		fmt.Fprintf(table, "%s\t%q of %q\tstarted %s\n", label, o.Spec, o.Session, ago(o.Since))
	}
	for _, a := range st.Waiting {
		fmt.Fprintf(table, "waits for a person\t%q of %q\tsince %s\t%s\n", a.Spec, a.Session, ago(a.At), askedBy(a.Data))
	}
	return table.Flush()
}

// limitNote says that a usage limit applies, and until when.
func limitNote(until *time.Time, now time.Time) string {
	if until == nil {
		return "usage limit, reset time not known"
	}
	layout := "15:04"
	if until.Sub(now) > 12*time.Hour {
		layout = "2 January, 15:04"
	}
	return "usage limit, resets at " + until.Local().Format(layout)
}

// askedBy returns the quoted question of a request; empty: it has none.
func askedBy(data json.RawMessage) string {
	var asked struct {
		Question string `json:"question"`
	}
	if json.Unmarshal(data, &asked) != nil || asked.Question == "" {
		return ""
	}
	return fmt.Sprintf("%q", asked.Question)
}
