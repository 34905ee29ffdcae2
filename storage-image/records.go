package main

import (
	"context"
	"regexp"

	"github.com/versity/versitygw/auth"
	"github.com/versity/versitygw/s3err"
)

// records is the folder of each namespace's records of lineage and audit. The operator adds records, root alone removes
// them, and no account changes one.
const records = "records/"

var (
	recordKey    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?/records/(index/)?[0-9]{10}\.json$`)
	inTheRecords = regexp.MustCompile(`^[^/]+/records(/|$)`)
)

// mayPut returns an error for a write that the account may not make: the operator creates records and nothing else.
func mayPut(ctx context.Context, key, ifNoneMatch *string) error {
	if accountOf(ctx) != operatorName {
		return mayChange(ctx, key)
	}
	if key == nil || !recordKey.MatchString(*key) || ifNoneMatch == nil || *ifNoneMatch != "*" {
		return s3err.GetAPIError(s3err.ErrAccessDenied)
	}
	return nil
}

// mayChange returns an error for a change that the account may not make: root alone changes what is among the records.
func mayChange(ctx context.Context, key *string) error {
	account := accountOf(ctx)
	if account == operatorName || account != rootName && key != nil && inTheRecords.MatchString(*key) {
		return s3err.GetAPIError(s3err.ErrAccessDenied)
	}
	return nil
}

func accountOf(ctx context.Context) string {
	account, _ := ctx.Value("account").(auth.Account)
	return account.Access
}
