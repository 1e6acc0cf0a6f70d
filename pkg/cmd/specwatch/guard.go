package main

import (
	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/runner"
)

// newGuard is a hidden command: run starts it as the parent of the command.
func newGuard(db *database) *cobra.Command {
	return &cobra.Command{
		Use:    "guard",
		Hidden: true,
		Args:   cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if code := runner.Guard(deliver(db)); code != 0 {
				return exitCode(code)
			}
			return nil
		},
	}
}
