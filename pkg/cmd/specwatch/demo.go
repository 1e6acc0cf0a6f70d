package main

import (
	"context"
	"net"
	"os"

	"github.com/spf13/cobra"

	"github.com/specwatch/specwatch/pkg/demo"
	"github.com/specwatch/specwatch/pkg/gateway"
	"github.com/specwatch/specwatch/pkg/schema"
	"github.com/specwatch/specwatch/pkg/store"
)

func newDemo(db *database) *cobra.Command {
	config := demo.Config{}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Start a database, the gateway and real commands as specs, until Ctrl-C",
		Long: `Starts a PostgreSQL server (unless you name a database), the gateway with its page,
and real commands as specs: some complete, one fails, one runs out of time, one hangs,
one reaches a usage limit, one asks a question. Two show the lines and hooks of agents.
It ends on Ctrl-C and keeps its data.`,
		Args: cobra.NoArgs,
	}
	cmd.Flags().StringVar(&config.Dir, "dir", ".specwatch/demo", "`directory` for the data of the demo")
	cmd.Flags().StringVar(&config.Listen, "listen", "127.0.0.1:8001", "`address` of the page, host:port; another port is used if this one is taken")
	cmd.RunE = does(func(cmd *cobra.Command, _ []string) error {
		if db.url != "" || variable(envDatabaseURL) != "" {
			where, err := db.config()
			if err != nil {
				return err
			}
			config.DatabaseURL = where.URL
		}
		options, err := serverOptions(gateway.Options{}).Check(config.Listen)
		if err != nil {
			return wrongUse{err}
		}
		self, err := os.Executable()
		if err != nil {
			return err
		}
		ctx, cancel := untilSignal(cmd.Context())
		defer cancel()
		name := db.schema
		if name == "" {
			name = variable(envSchema)
		}
		config.Executable, config.Out = self, cmd.OutOrStdout()
		config.Environment = func(url string) []string {
			return append(os.Environ(), envDatabaseURL+"="+url, envSchema+"="+name)
		}
		config.Migrate = func(ctx context.Context, url string) error {
			_, err := schema.Migrate(ctx, store.Config{URL: url, Schema: name}, nil)
			return err
		}
		config.Serve = func(ctx context.Context, url string, at net.Listener) error {
			return serve(ctx, store.Config{URL: url, Schema: name}, at, options)
		}
		return demo.Run(ctx, config)
	})
	return cmd
}
