package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/store"
)

func newMigrate(db *database) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create or upgrade the tables; safe to repeat and to run twice at once",
		Args:  cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			config, err := db.config()
			if err != nil {
				return err
			}
			ctx, cancel := untilSignal(cmd.Context())
			defer cancel()
			report, err := store.Migrate(ctx, config, func(note string) { say(cmd.ErrOrStderr(), note) })
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			for _, notice := range report.Notices {
				fmt.Fprintln(out, "note:", oneLine(notice))
			}
			if report.Repaired > 0 {
				fmt.Fprintf(out, "%d events of another database cluster repaired; readers start again\n", report.Repaired)
			}
			if report.Returned != "" {
				fmt.Fprintf(out, "table %s, which version 0.2 had renamed to events, has its name back and is mirrored; readers start again\n", report.Returned)
			}
			fmt.Fprintf(out, "schema %s has version %d (%d migrations applied now)\n", report.Schema, report.Version, report.Applied)
			return nil
		}),
	}
	return cmd
}
