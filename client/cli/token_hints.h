// Words that are tokens with and without a space in front, of which the wrong one is easily given.
#pragma once

#include "client/cli/pair_options.h"
#include "client/client.h"

namespace fluoroscope::cli {

// Warns on stderr of answers and foils without a space in front, such as "Mary", where " Mary" is one token too, and another: that is the
// one which the model would say next. Says nothing where a prompt ends in white space, or the server does not answer: the request itself
// will.
void WarnOfMissingSpaces(const client::Client& client, const PairOptions& options);

}  // namespace fluoroscope::cli
