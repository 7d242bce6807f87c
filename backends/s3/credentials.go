package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	"github.com/minio/minio-go/v7/pkg/credentials"
)

// Provider is a place to look for credentials.
type Provider struct {
	name string // for error messages
	credentials.Provider
}

// Static returns fixed credentials. The token is only for temporary ones.
func Static(id, secret, token string) Provider {
	return Provider{"the given keys", &credentials.Static{Value: credentials.Value{
		AccessKeyID: id, SecretAccessKey: secret, SessionToken: token, SignerType: credentials.SignatureV4,
	}}}
}

// Environment takes AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_SESSION_TOKEN from getenv, such as os.Getenv.
func Environment(getenv func(string) string) Provider {
	return Provider{"AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", &environment{getenv: getenv}}
}

// SharedFile takes the keys of a profile, "default" if empty, from a shared credentials file such as ~/.aws/credentials. A profile may name a program
// that prints them (credential_process), which is run.
func SharedFile(path, profile string) Provider {
	if profile == "" {
		profile = "default" // or minio-go would look into the environment
	}
	return Provider{fmt.Sprintf("the profile %q in %q", profile, path), &credentials.FileAWSCredentials{Filename: path, Profile: profile}}
}

// Instance asks the machine the program runs on: the metadata service of EC2 at endpoint ("" is its usual address), or what the variables
// AWS_CONTAINER_CREDENTIALS_*, AWS_WEB_IDENTITY_TOKEN_FILE and AWS_ROLE_ARN name for containers. Such credentials expire, and are fetched anew before.
// On other machines asking takes up to four seconds. It is the last place to look, then.
//
// The variables come from getenv; minio-go, which does this, looks first at those of the process.
func Instance(getenv func(string) string, endpoint string) Provider {
	p := &credentials.IAM{
		Endpoint: endpoint,
		Region:   getenv("AWS_REGION"),
		// Without a proxy: the service is on the machine, and gives credentials to everyone who gets there.
		Client: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 3 * time.Second},
	}
	if p.Container.CredentialsFullURI = getenv("AWS_CONTAINER_CREDENTIALS_FULL_URI"); p.Container.CredentialsFullURI != "" {
		// minio-go takes this field for the file's name, too. A token of its own it finds only in the process's environment.
		p.Container.AuthorizationToken = getenv("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE")
	}
	p.Container.CredentialsRelativeURI = getenv("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")
	p.EKSIdentity.TokenFile = getenv("AWS_WEB_IDENTITY_TOKEN_FILE")
	p.EKSIdentity.RoleARN = getenv("AWS_ROLE_ARN")
	p.EKSIdentity.RoleSessionName = getenv("AWS_ROLE_SESSION_NAME")
	return Provider{"this machine's metadata service", p}
}

// environment is minio-go's EnvAWS with an environment that is handed in.
type environment struct {
	getenv    func(string) string
	retrieved bool
}

// RetrieveWithCredContext implements credentials.Provider.
func (e *environment) RetrieveWithCredContext(*credentials.CredContext) (credentials.Value, error) {
	return e.Retrieve()
}

// Retrieve implements credentials.Provider.
func (e *environment) Retrieve() (credentials.Value, error) {
	v := credentials.Value{
		AccessKeyID: e.getenv("AWS_ACCESS_KEY_ID"), SecretAccessKey: e.getenv("AWS_SECRET_ACCESS_KEY"), SessionToken: e.getenv("AWS_SESSION_TOKEN"),
		SignerType: credentials.SignatureV4,
	}
	if v.AccessKeyID == "" || v.SecretAccessKey == "" {
		return credentials.Value{}, errors.New("not both set")
	}
	e.retrieved = true
	return v, nil
}

// IsExpired implements credentials.Provider.
func (e *environment) IsExpired() bool { return !e.retrieved }

// chain takes credentials from the first provider that has some. Unlike minio-go's it says why none has, and never goes on without.
// minio-go calls it under a lock.
type chain struct {
	providers []Provider
	current   credentials.Provider
}

// RetrieveWithCredContext implements credentials.Provider.
func (c *chain) RetrieveWithCredContext(cc *credentials.CredContext) (credentials.Value, error) {
	var why error
	for _, p := range c.providers {
		v, err := p.RetrieveWithCredContext(cc)
		if err == nil && v.AccessKeyID != "" && v.SecretAccessKey != "" {
			c.current = p
			return v, nil
		}
		if err == nil {
			err = errors.New("no keys")
		}
		// %v: nothing in here says anything about the storage.
		why = errors.Join(why, fmt.Errorf("%s: %v", p.name, err))
	}
	return credentials.Value{}, &credentialsError{why}
}

// Retrieve implements credentials.Provider.
func (c *chain) Retrieve() (credentials.Value, error) { return c.RetrieveWithCredContext(nil) }

// IsExpired implements credentials.Provider.
func (c *chain) IsExpired() bool { return c.current == nil || c.current.IsExpired() }

// credentialsError is the error of a chain.
type credentialsError struct{ why error }

// Error implements error.
func (e *credentialsError) Error() string { return fmt.Sprintf("no credentials found:\n%v", e.why) }

// keyring tells credentials from others without holding a secret.
type keyring struct{ id, token string }

// signedBy returns what a request was signed with: "AWS4-HMAC-SHA256 Credential=ID/date/...".
func signedBy(h http.Header) keyring {
	_, rest, _ := strings.Cut(h.Get("Authorization"), "Credential=")
	id, _, _ := strings.Cut(rest, "/")
	return keyring{id, h.Get("X-Amz-Security-Token")}
}

// renewed fetches credentials anew, and reports whether they are others than those the storage has just refused: then the call is worth another try.
func (s *Store) renewed(ctx context.Context, refused keyring) bool {
	s.creds.Expire()
	v, err := s.creds.GetWithContext(&credentials.CredContext{Client: &http.Client{Transport: s.http.inner}, Context: ctx})
	return err == nil && keyring{v.AccessKeyID, v.SessionToken} != refused
}
