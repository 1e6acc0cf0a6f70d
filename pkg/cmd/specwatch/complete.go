package main

import (
	"context"
	"io"
	"strings"
	"time"
	"unicode"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/event"
	"github.com/specwatch/specwatch/pkg/state"
)

// completionTimeout bounds how long a shell waits for the database.
const completionTimeout = 2 * time.Second

// completeKinds offers the kinds of events with their meanings.
func completeKinds(_ *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var all []cobra.Completion
	for _, k := range event.Kinds {
		all = append(all, cobra.CompletionWithDesc(string(k), k.Meaning()))
	}
	return all, cobra.ShellCompDirectiveNoFileComp
}

// completeNames offers the sessions of the last seven days for --session, and
// the specs that run, or wait for an answer, for --spec.
func completeNames(db *database, cmd *cobra.Command) {
	_ = cmd.RegisterFlagCompletionFunc("session", db.completeFrom(func(st state.State) (names []string) {
		for _, s := range st.Sessions {
			names = append(names, s.Session)
		}
		return names
	}))
	_ = cmd.RegisterFlagCompletionFunc("spec", db.completeFrom(func(st state.State) (names []string) {
		for _, list := range [][]state.Open{st.Running, st.Silent} {
			for _, o := range list {
				names = append(names, o.Spec)
			}
		}
		for _, w := range st.Waiting {
			names = append(names, w.Spec)
		}
		return names
	}))
}

// completeFrom offers names out of the state. While the database cannot be
// read there are none.
func (d *database) completeFrom(names func(state.State) []string) cobra.CompletionFunc {
	return func(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
		ctx, cancel := context.WithTimeout(context.Background(), completionTimeout)
		defer cancel()
		from, err := d.destination(ctx, io.Discard)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		defer from.close()
		st, err := from.state(ctx)
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var all []cobra.Completion
		offered := map[string]bool{"": true}
		for _, name := range names(st) {
			// Shells read one name from each line.
			if !offered[name] && strings.IndexFunc(name, unicode.IsControl) < 0 {
				offered[name] = true
				all = append(all, name)
			}
		}
		return all, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
	}
}
