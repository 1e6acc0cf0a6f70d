package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/store"
)

func newMigrate(db *database) *cobra.Command {
	var options store.MigrateOptions
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create or upgrade the schema; safe to repeat and to run from two places at once",
		Args:  cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			config, err := db.config()
			if err != nil {
				return err
			}
			ctx, cancel := untilSignal(cmd.Context())
			defer cancel()
			report, err := store.Migrate(ctx, config, options)
			if err != nil {
				return err
			}
			out := cmd.OutOrStdout()
			for _, notice := range report.Notices {
				fmt.Fprintln(out, "note:", oneLine(notice))
			}
			if report.Repaired > 0 {
				fmt.Fprintf(out, "%d events of another cluster repaired; cursors start afresh\n", report.Repaired)
			}
			fmt.Fprintf(out, "schema %s has version %d (%d migrations applied now)\n", report.Schema, report.Version, report.Applied)
			return nil
		}),
	}
	cmd.Flags().StringVar(&options.Adopt, "adopt", "", "make an existing `table` (name or schema.name) the events table, without rewriting it")
	return cmd
}
