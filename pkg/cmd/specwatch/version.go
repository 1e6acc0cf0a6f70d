package main

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/release"
)

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of this executable",
		Args:  cobra.NoArgs,
		RunE: does(func(cmd *cobra.Command, _ []string) error {
			line := "specwatch " + release.Version
			if revision := release.Revision(); revision != "" {
				line += " (" + revision + ")"
			}
			_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s %s %s/%s\n", line, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		}),
	}
}
