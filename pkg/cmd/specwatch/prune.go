package main

import (
	"context"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/store"
)

func newPrune(db *database) *cobra.Command {
	var olderThan string
	cmd := &cobra.Command{
		Use:     "prune --older-than AGE",
		Short:   "Remove old events",
		Long:    "Removes events that are older than AGE, in batches. Totals still count them. You can interrupt and repeat it.",
		Example: "  specwatch prune --older-than 30d",
		Args:    cobra.NoArgs,
	}
	cmd.Flags().StringVar(&olderThan, "older-than", "", "`age` of the events to remove, such as 30d, 36h or 1d12h (required)")
	cmd.RunE = does(func(cmd *cobra.Command, _ []string) error {
		if olderThan == "" {
			return wrongUsef("say which events to remove: --older-than 30d")
		}
		age, err := parseAge(olderThan)
		if err != nil {
			return wrongUsef("--older-than: %w", err)
		}
		ctx, cancel := untilSignal(cmd.Context())
		defer cancel()
		st, _, err := db.open(ctx)
		if err != nil {
			return err
		}
		defer st.Close()
		n, err := pruneShown(ctx, st, time.Now().Add(-age), cmd.ErrOrStderr())
		if err != nil {
			return err
		}
		fmt.Fprintf(cmd.OutOrStdout(), "%s removed\n", eventCount(n))
		return nil
	})
	return cmd
}

// pruneShown prunes, and shows the progress of the rollups and of the removal.
func pruneShown(ctx context.Context, st *store.Store, before time.Time, stderr io.Writer) (int64, error) {
	shown := newProgress(stderr, "events rolled up")
	defer func() { shown.end() }()
	return maintenance.Prune(ctx, st, before, func(p maintenance.Pruning) {
		switch {
		case p.ToRemove == 0:
			shown.show(p.RolledUp, share(p.RolledUp, p.ToRollUp))
		case p.Removed == 0: // the removal begins
			shown.end()
			shown = newProgress(stderr, "events removed")
		default:
			shown.show(p.Removed, share(p.Removed, p.ToRemove))
		}
	})
}

// parseAge reads a duration of Go that may begin with days.
func parseAge(text string) (time.Duration, error) {
	days, rest, hasDays := strings.Cut(text, "d")
	if !hasDays {
		days, rest = "0", text
	}
	n, err := strconv.ParseUint(days, 10, 32)
	var more time.Duration
	if err == nil && (rest != "" || !hasDays) {
		more, err = time.ParseDuration(rest)
	}
	switch age := time.Duration(n)*24*time.Hour + more; {
	case err != nil, more < 0:
		return 0, fmt.Errorf("%q is not an age; write it as 30d, 36h or 1d12h", text)
	case n > maxDays, age <= 0:
		return 0, fmt.Errorf("%q must be more than 0 and less than %dd; write it as 30d, 36h or 1d12h", text, maxDays)
	default:
		return age, nil
	}
}

// maxDays keeps an age within what a duration can hold.
const maxDays = 100_000
