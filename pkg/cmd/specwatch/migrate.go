package main

import (
	"cmp"
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/maintenance"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
)

func newMigrate(db *database) *cobra.Command {
	var roles string
	cmd := &cobra.Command{
		Use:   "migrate",
		Short: "Create or upgrade the tables; safe to repeat and to run twice at once",
		Long: `Creates or upgrades the tables. It can be repeated, and be run twice at once.

The roles specwatch_reader and specwatch_writer belong to the whole PostgreSQL
server: their members read or write every schema that has no others. --roles
gives this schema roles of its own; the roles that it had lose their rights on it.`,
		Args: cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			config, err := db.config()
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("roles") && roles == "" {
				return wrongUsef("--roles names no roles; leave it out to keep those that the schema has")
			}
			config.Roles = cmp.Or(roles, variable(envRoles))
			ctx, cancel := untilSignal(cmd.Context())
			defer cancel()
			report, err := schema.Migrate(ctx, config, func(note string) { say(cmd.ErrOrStderr(), note) })
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
			if err := rollUp(ctx, config, cmd.ErrOrStderr()); err != nil {
				say(cmd.ErrOrStderr(), fmt.Sprintf("the rollups are not complete: %s; a gateway whose user has the role %s completes them", err, report.Writer))
			}
			return nil
		}),
	}
	cmd.Flags().StringVar(&roles, "roles", "", "`name` of this schema's roles, NAME_reader and NAME_writer (default: $"+envRoles+", else those it has; a new schema has specwatch)")
	return cmd
}

// rollUp brings the rollups to the end. Answers are right without them, and slow
// on a large table.
func rollUp(ctx context.Context, config store.Config, stderr io.Writer) error {
	s, err := store.Open(ctx, config)
	if err != nil {
		return err
	}
	defer s.Close()
	shown := newProgress(stderr, "events rolled up")
	defer shown.end()
	return maintenance.RollUpAll(ctx, s, func(added, all int64) { shown.show(added, share(added, all)) })
}
