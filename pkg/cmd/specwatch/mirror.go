package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/mirror"
	"github.com/specwatch/specwatch/pkg/store"
)

// mirrorFlags are the flags of mirror.
type mirrorFlags struct {
	mapping                   mirror.Mapping
	preview, remove, backfill bool
}

func newMirror(db *database) *cobra.Command {
	var f mirrorFlags
	cmd := &cobra.Command{
		Use:   "mirror [TABLE]",
		Short: "Turn inserts into another table into events; without TABLE, list the mirrored tables",
		Long: `Turns each insert into TABLE into an event, in the same transaction, and copies the
rows that the table has now. The table only gets a trigger: its grants, policies and
programs stay as they are. A row that cannot be mapped never breaks an insert;
specwatch mirror counts such rows and says why.

SQL expressions over the columns of the table give the kind, at, session, spec and
data of an event. A column with one of these names needs no expression. Write
functions and other tables with their schema. A kind that Specwatch does not know
becomes a custom kind, such as TABLE.queued for queued, unless --kinds maps it.

Run the command again to change the mapping, after an interruption, or after you
have repaired rows: it copies what is missing. The primary key, a unique index, an
ascending column, or --key identifies a row.`,
		Example: `  specwatch mirror jobs --preview --session run_id --at created_at --time-zone Europe/Berlin
  specwatch mirror jobs --session run_id --spec task --at created_at --kind state \
      --kinds running=spec_started,done=spec_completed,error=spec_failed
  specwatch mirror
  specwatch mirror jobs --remove`,
		Args: cobra.MaximumNArgs(1),
	}
	f.addTo(cmd)
	cmd.RunE = does(func(cmd *cobra.Command, args []string) error {
		ctx, cancel := untilSignal(cmd.Context())
		defer cancel()
		st, _, err := db.open(ctx)
		if err != nil {
			return err
		}
		defer st.Close()
		switch {
		case len(args) == 0 && f.changed(cmd):
			return wrongUsef("name the table, such as: specwatch mirror jobs --preview")
		case len(args) == 0:
			mirrors, err := mirror.List(ctx, st)
			if err == nil {
				printMirrors(cmd.OutOrStdout(), mirrors)
			}
			return err
		case f.remove:
			return removeMirror(ctx, cmd, st, args[0])
		case f.preview:
			p, err := mirror.Try(ctx, st, args[0], f.mapping)
			if err != nil {
				return ofMapping(err)
			}
			return printPreview(cmd.OutOrStdout(), args[0], p)
		}
		return makeMirror(ctx, cmd, st, args[0], f)
	})
	return cmd
}

func (f *mirrorFlags) addTo(cmd *cobra.Command) {
	flags := cmd.Flags()
	flags.StringVar(&f.mapping.Kind, "kind", "", "SQL `expression` of the kind")
	flags.StringVar(&f.mapping.At, "at", "", "SQL `expression` of the time")
	flags.StringVar(&f.mapping.Session, "session", "", "SQL `expression` of the session")
	flags.StringVar(&f.mapping.Spec, "spec", "", "SQL `expression` of the spec (default: no spec)")
	flags.StringVar(&f.mapping.Data, "data", "", "SQL `expression` of the data, such as details or to_jsonb(TABLE) (default: {})")
	flags.StringVar(&f.mapping.Key, "key", "", "SQL `expression` that identifies a row (default: the primary key)")
	flags.StringVar(&f.mapping.Where, "where", "", "SQL `expression` that is true for the rows to turn into events (default: all)")
	flags.StringToStringVar(&f.mapping.Kinds, "kinds", nil, "`list` of kinds in the table and the kinds of events they become, such as running=spec_started,done=spec_completed; may be repeated")
	flags.StringVar(&f.mapping.TimeZone, "time-zone", "", "time `zone` of times that are stored without one, such as Europe/Berlin")
	flags.BoolVar(&f.preview, "preview", false, "print the first rows as events, count the rows that cannot be mapped, and change nothing")
	flags.BoolVar(&f.backfill, "backfill", true, "copy the rows that the table has now")
	flags.BoolVar(&f.remove, "remove", false, "stop mirroring and remove the trigger; the events stay")
	cmd.MarkFlagsMutuallyExclusive("preview", "remove")
}

// changed reports whether a flag of mirror itself was given.
func (f *mirrorFlags) changed(cmd *cobra.Command) bool {
	return slices.ContainsFunc([]string{"kind", "at", "session", "spec", "data", "key", "where", "kinds", "time-zone", "preview", "backfill", "remove"}, cmd.Flags().Changed)
}

func removeMirror(ctx context.Context, cmd *cobra.Command, st *store.Store, table string) error {
	if err := mirror.Remove(ctx, st, table, func(note string) { say(cmd.ErrOrStderr(), note) }); err != nil {
		return err
	}
	fmt.Fprintf(cmd.OutOrStdout(), "%s is not mirrored any more; the events that it made stay\n", table)
	return nil
}

// makeMirror mirrors the table and copies the rows that it has now.
func makeMirror(ctx context.Context, cmd *cobra.Command, st *store.Store, table string, f mirrorFlags) error {
	made, err := mirror.Make(ctx, st, table, f.mapping, func(note string) { say(cmd.ErrOrStderr(), note) })
	if err != nil {
		return ofMapping(err)
	}
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "every insert into %s is an event from now on\n", made.Source)
	switch {
	case !f.backfill:
		return nil
	case made.Mapping.Key == "" && !cmd.Flags().Changed("backfill"):
		fmt.Fprintf(out, "the rows that the table has now are not copied, because no column identifies a row; name an expression that does with --key\n")
		return nil
	}
	return fillMirror(ctx, cmd, st, table)
}

// fillMirror copies the rows that the table has now.
func fillMirror(ctx context.Context, cmd *cobra.Command, st *store.Store, table string) error {
	shown := newProgress(cmd.ErrOrStderr(), "rows read")
	defer shown.end()
	done, err := mirror.Fill(ctx, st, table, func(f mirror.Filled) { shown.show(f.Read, share(f.Read, f.Rows)) })
	if err != nil {
		return ofMapping(err)
	}
	shown.end()
	out := cmd.OutOrStdout()
	fmt.Fprintf(out, "%d rows read: %d became events now, %d were events already, %d are older than what prune removed, %d could not be mapped\n", done.Read, done.Written, done.Known, done.Pruned, done.Unmapped)
	if done.Unmapped > 0 {
		fmt.Fprintln(out, "run specwatch mirror to see why")
	}
	return nil
}

// ofMapping names the flag of what is wrong with a mapping.
func ofMapping(err error) error {
	var field *event.FieldError
	if errors.As(err, &field) {
		return wrongUsef("--%s: %s", field.Field, field.Detail)
	}
	return err
}

func printPreview(w io.Writer, table string, p mirror.Preview) error {
	for _, e := range p.Events {
		text, err := e.MarshalJSON()
		if err != nil {
			return err
		}
		// It has no id yet.
		fmt.Fprintf(w, "{%s\n", strings.TrimPrefix(string(text), `{"id":0,`))
	}
	var unfit int64
	for _, r := range p.Reasons {
		unfit += r.Rows
	}
	fmt.Fprintf(w, "%d rows of %s: %d can be mapped, %d cannot\n", p.Rows, table, p.Rows-unfit, unfit)
	printReasons(w, p.Reasons)
	return nil
}

func printReasons(w io.Writer, reasons []mirror.Reason) {
	for _, r := range reasons {
		fmt.Fprintf(w, "  %d: %s", r.Rows, oneLine(r.Text))
		if r.Example != "" {
			fmt.Fprintf(w, " (such as %s)", oneLine(r.Example))
		}
		fmt.Fprintln(w)
	}
}

func printMirrors(w io.Writer, mirrors []mirror.Mirror) {
	if len(mirrors) == 0 {
		fmt.Fprintln(w, "no table is mirrored")
	}
	for _, m := range mirrors {
		state := "the rows that were there before are not copied"
		switch {
		case !m.Active:
			state = "its trigger is gone; mirror it again, or --remove it"
		case m.Filled != nil:
			state = "its rows were copied " + m.Filled.UTC().Format(time.RFC3339)
		}
		fmt.Fprintf(w, "%s: %s, %d rows not mapped\n", m.Source, state, m.Unmapped)
		printReasons(w, m.Reasons)
	}
}
