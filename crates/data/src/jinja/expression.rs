//! Expressions, by Jinja's precedence: choice, or, and, not, comparison, sum, `~`, product, power, sign, and what follows a
//! value.

use super::Fail;
use super::lexer::Kind;
use super::parser::Parser;
use super::syntax::{Arguments, Comparison, Expr, Operator, Post};

impl Parser {
    /// An expression, or several between commas.
    pub(super) fn tuple(&mut self) -> Result<Expr, Fail> {
        self.several(Self::expression)
    }

    /// The same without `if`, which means something else where a loop begins.
    pub(super) fn tuple_without_choice(&mut self) -> Result<Expr, Fail> {
        self.several(|parser| parser.nested(Self::or))
    }

    fn several(&mut self, one: impl Fn(&mut Self) -> Result<Expr, Fail>) -> Result<Expr, Fail> {
        let first = one(self)?;
        if !self.is_operator(",") {
            return Ok(first);
        }
        let mut all = vec![first];
        while self.take_operator(",") {
            if matches!(self.kind(), Kind::BlockEnd | Kind::PrintEnd) || self.is_operator(")") {
                break;
            }
            all.push(one(self)?);
        }
        Ok(Expr::Tuple(all))
    }

    pub(super) fn expression(&mut self) -> Result<Expr, Fail> {
        self.nested(|parser| {
            let mut value = parser.or()?;
            if parser.take_name("if") {
                let condition = Box::new(parser.or()?);
                let otherwise = if parser.take_name("else") { Some(Box::new(parser.expression()?)) } else { None };
                value = Expr::Choice { then: Box::new(value), condition, otherwise };
            }
            Ok(value)
        })
    }

    fn or(&mut self) -> Result<Expr, Fail> {
        let mut all = vec![self.and()?];
        while self.take_name("or") {
            all.push(self.and()?);
        }
        Ok(single_or(all, Expr::Or))
    }

    fn and(&mut self) -> Result<Expr, Fail> {
        let mut all = vec![self.not()?];
        while self.take_name("and") {
            all.push(self.not()?);
        }
        Ok(single_or(all, Expr::And))
    }

    fn not(&mut self) -> Result<Expr, Fail> {
        if self.take_name("not") {
            return Ok(Expr::Not(Box::new(self.nested(Self::not)?)));
        }
        self.comparison()
    }

    fn comparison(&mut self) -> Result<Expr, Fail> {
        let first = self.sum()?;
        let mut rest = Vec::new();
        loop {
            let comparison = match self.kind() {
                Kind::Operator("==") => Comparison::Equal,
                Kind::Operator("!=") => Comparison::NotEqual,
                Kind::Operator("<") => Comparison::Less,
                Kind::Operator("<=") => Comparison::LessEqual,
                Kind::Operator(">") => Comparison::Greater,
                Kind::Operator(">=") => Comparison::GreaterEqual,
                Kind::Name(name) if name == "in" => Comparison::In,
                Kind::Name(name) if name == "not" => {
                    self.next();
                    if !self.is_name("in") {
                        return Err(self.unexpected("`in` after `not`"));
                    }
                    Comparison::NotIn
                }
                _ => break,
            };
            self.next();
            rest.push((comparison, self.sum()?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Compare(Box::new(first), rest) })
    }

    fn sum(&mut self) -> Result<Expr, Fail> {
        self.chain(Self::concat, &[("+", Operator::Add), ("-", Operator::Subtract)])
    }

    fn concat(&mut self) -> Result<Expr, Fail> {
        let mut all = vec![self.product()?];
        while self.take_operator("~") {
            all.push(self.product()?);
        }
        Ok(single_or(all, Expr::Concat))
    }

    fn product(&mut self) -> Result<Expr, Fail> {
        let operators = [
            ("*", Operator::Multiply),
            ("//", Operator::FloorDivide),
            ("/", Operator::Divide),
            ("%", Operator::Remainder),
        ];
        self.chain(Self::power, &operators)
    }

    fn power(&mut self) -> Result<Expr, Fail> {
        self.chain(|parser| parser.unary(true), &[("**", Operator::Power)])
    }

    fn chain(
        &mut self,
        operand: impl Fn(&mut Self) -> Result<Expr, Fail>,
        operators: &[(&str, Operator)],
    ) -> Result<Expr, Fail> {
        let first = operand(self)?;
        let mut rest = Vec::new();
        while let Some((_, operator)) = operators.iter().find(|(symbol, _)| self.is_operator(symbol)) {
            self.next();
            rest.push((*operator, operand(self)?));
        }
        Ok(if rest.is_empty() { first } else { Expr::Chain(Box::new(first), rest) })
    }

    fn unary(&mut self, with_filters: bool) -> Result<Expr, Fail> {
        let (value, mut posts) = if self.take_operator("-") {
            (Expr::Negative(Box::new(self.nested(|parser| parser.unary(false))?)), Vec::new())
        } else if self.take_operator("+") {
            (Expr::Positive(Box::new(self.nested(|parser| parser.unary(false))?)), Vec::new())
        } else {
            let value = self.primary()?;
            (value, self.postfixes()?)
        };
        if with_filters {
            self.filters_and_tests(&mut posts)?;
        }
        Ok(if posts.is_empty() { value } else { Expr::Postfix(Box::new(value), posts) })
    }

    fn primary(&mut self) -> Result<Expr, Fail> {
        match self.kind().clone() {
            Kind::Name(name) => {
                self.next();
                Ok(match name.as_str() {
                    "true" | "True" => Expr::Bool(true),
                    "false" | "False" => Expr::Bool(false),
                    "none" | "None" => Expr::None,
                    _ => Expr::Name(name),
                })
            }
            Kind::Str(mut text) => {
                self.next();
                while let Kind::Str(more) = self.kind() {
                    text.push_str(more);
                    self.next();
                }
                Ok(Expr::Str(text))
            }
            Kind::Int(number) => {
                self.next();
                Ok(Expr::Int(number))
            }
            Kind::Float(number) => {
                self.next();
                Ok(Expr::Float(number))
            }
            Kind::Operator("(") => {
                self.next();
                if self.take_operator(")") {
                    return Ok(Expr::Tuple(Vec::new()));
                }
                let inner = self.tuple()?;
                self.expect_operator(")")?;
                Ok(inner)
            }
            Kind::Operator("[") => {
                self.next();
                let mut items = Vec::new();
                while !self.take_operator("]") {
                    if !items.is_empty() {
                        self.expect_operator(",")?;
                        if self.take_operator("]") {
                            break;
                        }
                    }
                    items.push(self.expression()?);
                }
                Ok(Expr::List(items))
            }
            Kind::Operator("{") => {
                self.next();
                let mut entries = Vec::new();
                while !self.take_operator("}") {
                    if !entries.is_empty() {
                        self.expect_operator(",")?;
                        if self.take_operator("}") {
                            break;
                        }
                    }
                    let key = self.expression()?;
                    self.expect_operator(":")?;
                    entries.push((key, self.expression()?));
                }
                Ok(Expr::Dict(entries))
            }
            _ => Err(self.unexpected("a value")),
        }
    }

    /// Attributes, items and calls.
    fn postfixes(&mut self) -> Result<Vec<Post>, Fail> {
        let mut posts = Vec::new();
        loop {
            if self.take_operator(".") {
                posts.push(match self.next() {
                    Kind::Name(name) => Post::Attribute(name),
                    Kind::Int(index) => Post::Item(Expr::Int(index)),
                    _ => return Err(self.fail("expected a name or a number after the dot")),
                });
            } else if self.take_operator("[") {
                posts.push(self.nested(Self::subscript)?);
            } else if self.is_operator("(") {
                posts.push(Post::Call(self.arguments()?));
            } else {
                return Ok(posts);
            }
        }
    }

    fn subscript(&mut self) -> Result<Post, Fail> {
        let mut parts: [Option<Expr>; 3] = [None, None, None];
        let mut colons = 0;
        loop {
            if self.take_operator("]") {
                break;
            }
            if self.take_operator(":") {
                colons += 1;
                if colons > 2 {
                    return Err(self.fail("a slice has at most three parts"));
                }
                continue;
            }
            let value = self.tuple()?;
            match parts.get_mut(colons) {
                Some(part) if part.is_none() => *part = Some(value),
                _ => return Err(self.unexpected("`]`")),
            }
        }
        match (colons, parts) {
            (0, [Some(index), _, _]) => Ok(Post::Item(index)),
            (0, _) => Err(self.fail("expected something between the brackets")),
            (_, parts) => Ok(Post::Slice(parts)),
        }
    }

    fn filters_and_tests(&mut self, posts: &mut Vec<Post>) -> Result<(), Fail> {
        loop {
            if self.take_operator("|") {
                posts.push(self.filter()?);
            } else if self.take_name("is") {
                posts.push(self.test()?);
            } else if self.is_operator("(") {
                posts.push(Post::Call(self.arguments()?));
            } else {
                return Ok(());
            }
        }
    }

    fn filter(&mut self) -> Result<Post, Fail> {
        let name = self.name()?;
        let arguments = if self.is_operator("(") { self.arguments()? } else { Arguments::default() };
        Ok(Post::Filter(name, arguments))
    }

    /// The filters that a whole block goes through.
    pub(super) fn filters_of_a_block(&mut self) -> Result<Vec<Post>, Fail> {
        let mut filters = vec![self.filter()?];
        while self.take_operator("|") {
            filters.push(self.filter()?);
        }
        Ok(filters)
    }

    fn test(&mut self) -> Result<Post, Fail> {
        let negated = self.take_name("not");
        let name = match self.kind() {
            Kind::Operator(operator @ ("==" | "!=" | "<" | "<=" | ">" | ">=")) => {
                let name = (*operator).to_owned();
                self.next();
                name
            }
            _ => self.name()?,
        };
        let begins_value = match self.kind() {
            Kind::Name(name) => !matches!(name.as_str(), "else" | "or" | "and" | "is" | "if"),
            Kind::Str(_) | Kind::Int(_) | Kind::Float(_) | Kind::Operator("[" | "{") => true,
            _ => false,
        };
        let arguments = if self.is_operator("(") {
            self.arguments()?
        } else if begins_value {
            let value = self.nested(Self::primary)?;
            let posts = self.postfixes()?;
            let value = if posts.is_empty() { value } else { Expr::Postfix(Box::new(value), posts) };
            Arguments { positional: vec![value], named: Vec::new() }
        } else {
            Arguments::default()
        };
        Ok(Post::Test { name, arguments, negated })
    }

    fn arguments(&mut self) -> Result<Arguments, Fail> {
        self.expect_operator("(")?;
        let mut arguments = Arguments::default();
        while !self.take_operator(")") {
            if !arguments.positional.is_empty() || !arguments.named.is_empty() {
                self.expect_operator(",")?;
                if self.take_operator(")") {
                    break;
                }
            }
            if self.is_operator("*") || self.is_operator("**") {
                return Err(self.fail("arguments spread with `*` are not read in chat templates"));
            }
            let value = self.expression()?;
            match value {
                Expr::Name(name) if self.take_operator("=") => {
                    let value = self.expression()?;
                    arguments.named.push((name, value));
                }
                _ if !arguments.named.is_empty() => {
                    return Err(self.fail("an argument without a name after one with a name"));
                }
                value => arguments.positional.push(value),
            }
        }
        Ok(arguments)
    }
}

fn single_or(mut all: Vec<Expr>, several: impl Fn(Vec<Expr>) -> Expr) -> Expr {
    if all.len() == 1 { all.remove(0) } else { several(all) }
}
