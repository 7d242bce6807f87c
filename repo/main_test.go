package repo_test

import (
	"context"
	"os"
	"testing"
	"time"

	"packhold/backends"
	"packhold/chunk"
	"packhold/crypt"
	"packhold/repo"
	"packhold/repo/admin"
	"packhold/repo/format"
)

func TestMain(m *testing.M) {
	repo.MakeRepo = func(ctx context.Context, s backends.Storage) (*crypt.Credential, error) {
		key, err := repo.ReadKey()
		if err != nil {
			return nil, err
		}
		return admin.Init(ctx, s, admin.InitOptions{Passphrase: []byte(repo.Passphrase), Iterations: crypt.MinIterations,
			Config: format.Config{Profile: format.Standard, Chunker: chunk.DefaultParams()}, Parity: 2, PackSize: format.MinPackSize,
			Compression: "fastest", HostName: "host-a", Label: "first", ReadKey: key, Now: time.Unix(1e9, 0)})
	}
	os.Exit(m.Run())
}
